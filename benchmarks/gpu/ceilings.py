"""What the machine reaches at all: copying memory, multiplying matrices, moving weights over the link."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.gpu.parts import Machine, Row
from servery.engine.checkpoint import Checkpoint
from servery.engine.placing import DevicePlacing, link_bytes_per_s


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
    """Weights from a file in the page cache to the device, beside what the link moves from pinned memory."""
    if machine.device.type != "cuda":
        yield Row("loading", "needs a GPU: nothing goes over a link here", 0.0)
        return
    link = link_bytes_per_s(machine.device)
    yield Row("loading", "link, from pinned memory", link / 1e9, "GB/s")
    with tempfile.TemporaryDirectory() as folder:
        values = torch.randn(8192, 8192).to(torch.bfloat16)
        tensors = {f"w{number}": values.roll(number, 0) for number in range(16)}
        save_file(tensors, Path(folder) / "model.safetensors")
        for name in ("first", "again"):
            place = DevicePlacing(machine.device)
            started = time.perf_counter()
            with Checkpoint.find(Path(folder)).open() as stored:
                there = {key: place(each.load(), torch.bfloat16) for key, each in stored.items()}
            place.close()
            spent = time.perf_counter() - started
            is_right = all(torch.equal(there[key].cpu(), value) for key, value in list(tensors.items())[:2])
            rate = place.meter.nbytes / spent
            note = "" if is_right else "THE VALUES ARE WRONG"
            yield Row("loading", f"2 GiB of a file, {name}", rate / 1e9, "GB/s", note=note)
        yield Row("loading", "share of the link", rate / link if is_right else None, "")
