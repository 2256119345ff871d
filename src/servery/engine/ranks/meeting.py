"""How the processes of a model find each other: through a file, on this machine's loopback or its GPUs' own links."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from servery.engine.errors import LoadError
from servery.engine.parallel.team import Team

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


def meet(team: Team, file: Path, device: torch.device) -> None:
    """Wait for all processes, and let the team compute."""
    ranks = team.ranks
    # Everything stays on this machine: no port is open to others.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    bound = device if device.type == "cuda" else None
    dist.init_process_group(
        _backend(device),
        init_method=file.as_uri(),
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=PATIENCE,
        device_id=bound,
    )
    groups = [
        dist.new_group(list(range(stage * ranks.tensor, (stage + 1) * ranks.tensor))) for stage in range(ranks.pipeline)
    ]
    team.join(groups[ranks.stage])


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def part_company() -> None:
    """End what `meet` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
