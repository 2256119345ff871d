"""How the processes of a model find each other: through a file, on this machine's loopback or its GPUs' own links; of several
machines at a port of the first process, by the network that leads there.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from servery.engine.errors import LoadError
from servery.engine.parallel.team import Team
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.network import INTERFACE_VARIABLES

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

# The longest that processes may be apart: one may still read weights when another has them.
PATIENCE = timedelta(minutes=30)


def check_can_meet(device: torch.device) -> None:
    """Raise `LoadError` where several processes cannot compute one model."""
    backend = _backend(device)
    if not dist.is_available() or not dist.is_backend_available(backend):
        raise LoadError(
            f"this torch ({torch.__version__}) has no {backend}, by which several processes compute one model; install "
            "one that has, or leave out --tensor-parallel and --pipeline-parallel."
        )
    if dist.is_initialized():
        raise LoadError(
            "this process takes part in another group of torch.distributed already; start a process of its own."
        )


def meet(team: Team, place: MeetingPlace, device: torch.device) -> None:
    """Wait for all processes, and let the team compute."""
    ranks = team.ranks
    # Of one machine no port is open to others, of several only those at the address that they come to.
    for name in INTERFACE_VARIABLES:
        os.environ.setdefault(name, place.interface)
    bound = device if device.type == "cuda" else None
    dist.init_process_group(
        _backend(device),
        store=_store(place, ranks.count),
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=PATIENCE,
        device_id=bound,
    )
    groups = [
        dist.new_group(list(range(stage * ranks.tensor, (stage + 1) * ranks.tensor))) for stage in range(ranks.pipeline)
    ]
    team.join(groups[ranks.stage])


def _store(place: MeetingPlace, count: int) -> "Store":
    from torch._C._distributed_c10d import FileStore, TCPStore  # which a torch without torch.distributed lacks

    if place.file:
        return FileStore(place.file, count)
    listener = None if place.listener is None else os.dup(place.listener)  # the store closes what it is given
    return TCPStore(
        place.host,
        place.port,
        count,
        is_master=listener is not None,
        timeout=PATIENCE,
        wait_for_workers=False,
        master_listen_fd=listener,
    )


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def part_company() -> None:
    """End what `meet` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
