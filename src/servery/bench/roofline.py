"""`servery bench roofline`: what this machine can do, and how near to that the steps of a model come.

A part of a step cannot take less than its bytes over the memory bandwidth, nor less than its operations over the rate at
which the machine multiplies matrices of that type: the larger of the two is its limit (Williams, Waterman, Patterson:
"Roofline", 2009). What neither explains is overhead.
"""

import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table

from servery.bench import bandwidth, scaling
from servery.bench.bandwidth import Bandwidth
from servery.bench.machine import Provenance
from servery.bench.scaling import Scaling
from servery.bench.step_times import PartTime, StepTime, StepTimer
from servery.byte_size import format_byte_size
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import LoadError
from servery.engine.threads import usable_cores

_GEMM_SIZE = 1024
_GEMM_ROUNDS = 10
_DECODE_ROWS = (1, 8, 32)
_PREFILL_TOKENS = 256
_USUAL_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineOptions:
    """The model to be timed, None for the machine alone; `context` is the length of the sequences that decode,
    None for the usual 512 or, if that is less, the model's own limit.
    """

    engine: EngineConfig | None
    threads: int
    context: int | None = None
    json_path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Rates of `threads` threads: bytes read per second, operations per second of 1,024-cubed products by type.

    `scaling` is what all cores do together beside one; None where there is but one.
    """

    threads: int
    bandwidth: Bandwidth
    operations_per_s: dict[str, float]
    scaling: Scaling | None = None

    def limit_s(self, part: PartTime, dtype: str) -> float:
        """The least time that `part` can take."""
        by_reading = part.bytes_read / self.bandwidth.best_bytes_per_s
        return max(by_reading, part.operations / self.operations_per_s[dtype])


def run(options: RooflineOptions) -> int:
    """Measure, print, write; raises `LoadError`."""
    console = Console()
    torch.set_num_threads(options.threads)
    machine = measure_machine(options.threads)
    console.print(_machine_table(machine))
    steps: list[StepTime] = []
    dtype = "float32"
    if options.engine is not None:
        core = EngineCore(options.engine)
        dtype = core.info.dtype
        steps = _steps(core, decoding_context(options.context, core.info.max_model_len))
        console.print(_model_table(machine, steps, dtype))
        weights = format_byte_size(core.info.weight_bytes)
        console.print(f"{core.info.architecture}, {dtype}, weights {weights}, kernels {core.info.kernels}")
    if options.json_path is not None:
        _write(options.json_path, machine, steps, dtype)
    return 0


def measure_machine(threads: int) -> Machine:
    """Read bandwidth, products by type (float32, bfloat16, int8), and what all cores add to one."""
    cores = usable_cores()
    return Machine(
        threads=threads,
        bandwidth=bandwidth.measure(threads),
        operations_per_s={name: gemm_rate(name) for name in ("float32", "bfloat16", "int8")},
        scaling=scaling.measure(cores) if cores > 1 else None,
    )


def gemm_rate(name: str) -> float:
    """Operations per second of 1,024-cubed products of a type, the best of some."""
    size = _GEMM_SIZE
    if name == "int8":
        a = torch.randint(-127, 127, (size, size), dtype=torch.int8)
        b = torch.randint(-127, 127, (size, size), dtype=torch.int8)
        multiply = torch._int_mm  # noqa: SLF001 - torch's only product of int8
    else:
        a, b = torch.randn(2, size, size, dtype=getattr(torch, name)).unbind(0)
        multiply = torch.mm
    times = []
    for _ in range(_GEMM_ROUNDS):
        began = perf_counter()
        multiply(a, b)
        times.append(perf_counter() - began)
    return 2 * size**3 / min(times)


def decoding_context(asked: int | None, limit: int) -> int:
    """The length of what decodes; raises `LoadError` for one that the model has not."""
    if asked is not None and asked > limit:
        raise LoadError(f"--context is {asked} and the model's context is {limit} tokens; give at most that.")
    return min(_USUAL_CONTEXT, limit) if asked is None else asked


def _steps(core: EngineCore, context: int) -> list[StepTime]:
    """Decoding at several batch sizes, and a piece of a prompt; what the cache has no room for is left out."""
    timer = StepTimer(core.model, core.cache)
    cases = [(rows, 1, context) for rows in _DECODE_ROWS]
    cases.append((1, min(_PREFILL_TOKENS, context), min(_PREFILL_TOKENS, context)))
    room = core.info.num_blocks
    fitting = [case for case in cases if case[0] * -(-case[2] // core.info.block_size) <= room]
    if not fitting:
        raise LoadError(f"the KV cache has no room for a context of {context} tokens; raise --kv-memory.")
    return [timer.time(*case) for case in fitting]


def _machine_table(machine: Machine) -> Table:
    table = Table("this machine", f"{machine.threads} threads")
    table.add_row("read bandwidth", f"{machine.bandwidth.best_bytes_per_s / 1e9:.1f} GB/s")
    for name, rate in machine.operations_per_s.items():
        table.add_row(f"{name} products", f"{rate / 1e9:.0f} Gop/s")
    if machine.scaling is not None:
        found = machine.scaling
        told = f"read {found.reading:.2f} times, multiply {found.multiplying:.2f} times as much"
        table.add_row(f"{found.threads} cores beside one", told)
    return table


def _model_table(machine: Machine, steps: list[StepTime], dtype: str) -> Table:
    table = Table("step", "part", "ms", "share", "GB/s", "Gop/s", "limit ms", "of the limit")
    for step in steps:
        name = f"prompt, {step.tokens} tokens" if step.tokens > 1 else f"decode, {step.rows} rows"
        for part in step.parts:
            table.add_row(name, *_cells(machine, part, step.seconds, dtype))
            name = ""
        whole = PartTime(
            name="all",
            seconds=step.seconds,
            bytes_read=sum(part.bytes_read for part in step.parts),
            operations=sum(part.operations for part in step.parts),
        )
        table.add_row("", *_cells(machine, whole, step.seconds, dtype), end_section=True)
    return table


def _cells(machine: Machine, part: PartTime, whole_s: float, dtype: str) -> list[str]:
    shown = [part.name, f"{1e3 * part.seconds:.3f}", f"{part.seconds / whole_s:.0%}"]
    if not part.bytes_read or not part.seconds:
        return [*shown, "", "", "", ""]
    limit_s = machine.limit_s(part, dtype)
    return [
        *shown,
        f"{part.bytes_read / part.seconds / 1e9:.1f}",
        f"{part.operations / part.seconds / 1e9:.1f}",
        f"{1e3 * limit_s:.3f}",
        f"{limit_s / part.seconds:.0%}",
    ]


def _write(path: Path, machine: Machine, steps: list[StepTime], dtype: str) -> None:
    result = {
        "provenance": dataclasses.asdict(Provenance.now()),
        "dtype": dtype,
        "machine": dataclasses.asdict(machine),
        "steps": [dataclasses.asdict(step) for step in steps],
        "median_mbu": _mbu(machine, steps),
    }
    path.write_text(json.dumps(result, indent=2) + "\n")


def _mbu(machine: Machine, steps: list[StepTime]) -> float | None:
    """Of the steps that decode: the share of the bandwidth that their reading came to."""
    shares = [
        sum(part.bytes_read for part in step.parts) / step.seconds / machine.bandwidth.best_bytes_per_s
        for step in steps
        if step.tokens == 1
    ]
    return statistics.median(shares) if shares else None
