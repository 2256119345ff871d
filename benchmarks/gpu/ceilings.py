"""What the machine reaches at all: copying memory, multiplying matrices, moving weights over the link."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from benchmarks.gpu.parts import Machine, Row
from servery.engine.checkpoint import Checkpoint
from servery.engine.placing import DevicePlacing, link_bytes_per_s

# What is to be reached of the link, from the page cache; and how many tensors are read as one layer.
LINK_SHARE = 0.8
LAYER_TENSORS = 8


def ceilings(machine: Machine) -> Iterator[Row]:
    """Copy bandwidth (read and written bytes) and bfloat16 products; every other part is judged by these."""
    device = machine.device
    machine.copy_bytes_per_s = _copied(machine, 1 << (24 if machine.is_dry else 31))
    yield Row("ceilings", "copy, read and written", machine.copy_bytes_per_s / 1e9, "GB/s")
    machine.clear()
    side = 256 if machine.is_dry else 8192
    a = torch.randn(side, side, device=device).to(torch.bfloat16)
    out = torch.empty_like(a)
    machine.operations_per_s = 2 * side**3 / machine.best_s(lambda: torch.mm(a, a, out=out), 20)
    yield Row("ceilings", f"bfloat16 product of {side} squared", machine.operations_per_s / 1e12, "TFLOP/s")


def _copied(machine: Machine, size: int) -> float:
    source = torch.empty(size, dtype=torch.uint8, device=machine.device)
    there = torch.empty_like(source)
    return 2 * size / machine.best_s(lambda: there.copy_(source))


def loading(machine: Machine) -> Iterator[Row]:
    """Weights from a file to the device, beside what the link moves from pinned memory.

    From the page cache in tensors as of a dense model and as of one with many experts; and from the disk.
    """
    if machine.device.type != "cuda":
        yield Row("loading", "needs a GPU: nothing goes over a link here", 0.0)
        return
    link = link_bytes_per_s(machine.device)
    yield Row("loading", "link, from pinned memory", link / 1e9, "GB/s")
    for kind, count, shape in (("large", 8, (8192, 8192)), ("small", 320, (2048, 768))):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            values = torch.randn(shape).to(torch.bfloat16)
            tensors = {f"w{number:03}": values.roll(number, 0) for number in range(count)}
            save_file(tensors, file)
            for name in ("first", "again", "from the disk"):
                if name == "from the disk":
                    drop_cached(file)
                loaded = load(file.parent, machine.device)
                is_right = all(torch.equal(loaded.there[key].cpu(), value) for key, value in list(tensors.items())[:2])
                note = "" if is_right else "THE VALUES ARE WRONG"
                yield Row("loading", f"{kind} tensors, {name}", loaded.bytes_per_s / 1e9, "GB/s", note=note)
                if name == "again":
                    share = loaded.bytes_per_s / link if is_right else None
                    yield Row("loading", f"{kind} tensors: share of the link", share, "", LINK_SHARE)
                del loaded
        machine.clear()


class Loading(NamedTuple):
    """Tensors on a device, and how fast they came."""

    there: dict[str, torch.Tensor]
    bytes_per_s: float


def load(folder: Path, device: torch.device) -> Loading:
    """All tensors of a checkpoint as the loader takes them: some are on their way while one is waited for."""
    place = DevicePlacing(device)
    started = time.perf_counter()
    with Checkpoint.find(folder).open() as stored:
        mapped = {key: each.load() for key, each in stored.items()}
        groups = list(batched(mapped, LAYER_TENSORS))
        there: dict[str, torch.Tensor] = {}
        for number, keys in enumerate(groups):
            place.expect(mapped[key] for group in groups[number : number + 2] for key in group if key not in there)
            there |= {key: place(mapped[key], mapped[key].dtype) for key in keys}
        place.close()
    return Loading(there, place.meter.nbytes / (time.perf_counter() - started))


def drop_cached(file: Path) -> None:
    """Let the system forget what it has of a file in memory, where it can."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batched(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    """The keys, so many at a time."""
    every = list(keys)
    return (every[at : at + size] for at in range(0, len(every), size))
