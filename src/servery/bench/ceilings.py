"""What this machine can do at most, measured in two seconds and kept for servers: `python -m servery.bench.ceilings`.

A server starts it as a process of its own when it has been idle for a while and nobody has measured this machine yet. It is
a small part of `servery bench roofline`: the read bandwidth, and products of the types that engines compute in.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from servery.bench import bandwidth
from servery.bench.machine import Provenance
from servery.bench.roofline import gemm_rate
from servery.engine.available_memory import available_bytes

_ROUNDS = 4
_CPU_TYPES = ("float32", "bfloat16")
_GPU_TYPES = ("float32", "bfloat16", "float16")
_SPARE_BYTES = 1 << 30  # beside the buffer that is read
_LEAST_SHARE = 0.85
_GPU_BUFFER_BYTES = 256 << 20
_GPU_GEMM_SIZE = 4096
_GPU_ROUNDS = 5
_GPU_CALLS = 20  # between two looks at the clock


def measured(device: str, threads: int) -> dict[str, Any]:
    """In the form of `servery bench roofline`'s file; raises `MemoryError` where there is no room to measure."""
    return _of_gpu(device) if device.startswith("cuda") else _of_cpu(threads)


def _of_cpu(threads: int) -> dict[str, Any]:
    available = available_bytes()
    if available is not None and available < bandwidth.BUFFER_BYTES + _SPARE_BYTES:
        raise MemoryError(f"{available} bytes of memory are too few to measure in")
    torch.set_num_threads(threads)
    return {
        "threads": threads,
        "bandwidth": dataclasses.asdict(bandwidth.measure(threads, rounds=_ROUNDS)),
        "operations_per_s": {name: gemm_rate(name) for name in _CPU_TYPES},
    }


def _of_gpu(device: str) -> dict[str, Any]:
    source = torch.ones(_GPU_BUFFER_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _gpu_s(device, partial(target.copy_, source))
    rates = {}
    for name in _GPU_TYPES:
        a, b = torch.randn(2, _GPU_GEMM_SIZE, _GPU_GEMM_SIZE, device=device, dtype=getattr(torch, name)).unbind(0)
        rates[name] = 2 * _GPU_GEMM_SIZE**3 / _gpu_s(device, partial(torch.mm, a, b))
    # A copy reads and writes.
    return {"bandwidth": {"best_bytes_per_s": 2 * _GPU_BUFFER_BYTES / copy_s}, "operations_per_s": rates}


def _gpu_s(device: str, work: Callable[[], object]) -> float:
    """The least seconds that `work` took on the device, each time long enough for the clock."""
    best = float("inf")
    for _ in range(_GPU_ROUNDS):
        torch.cuda.synchronize(device)
        began = perf_counter()
        for _ in range(_GPU_CALLS):
            work()
        torch.cuda.synchronize(device)
        best = min(best, (perf_counter() - began) / _GPU_CALLS)
    return best


class BusyMachine(RuntimeError):
    """Others took the processor meanwhile: what was measured is too little."""


def undisturbed(device: str, threads: int) -> dict[str, Any]:
    """What was measured, if the process had the processor for itself; raises `BusyMachine`, and as `measured`."""
    began_s, began_cpu_s = perf_counter(), process_time()
    found = measured(device, threads)
    share = (process_time() - began_cpu_s) / (perf_counter() - began_s)
    if share < _LEAST_SHARE:
        raise BusyMachine(
            f"others were busy on it: this process had {share:.0%} of one processor, not {_LEAST_SHARE:.0%}"
        )
    return found


def keep(machine: dict[str, Any], path: Path) -> None:
    """Write what was measured, at once and whole; raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"provenance": dataclasses.asdict(Provenance.now()), "machine": machine}, indent=2) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)


def main() -> int:
    """Measure, and write where `--out` says; 1 where it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m servery.bench.ceilings", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        keep(undisturbed(options.device, options.threads), options.out)
    except (MemoryError, OSError, RuntimeError) as error:
        sys.stderr.write(f"the machine could not be measured: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    os.nice(5)  # whoever comes meanwhile goes first
    sys.exit(main())
