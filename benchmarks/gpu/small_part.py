"""What stands between matrix products, in each way that there is: Triton's launch, torch's operations, torch.compile's."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.parts import Machine, Row
from benchmarks.gpu.random_model import shape_8b
from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.cuda.fused_loop import FusedProjection, TorchProjection
from servery.engine.cuda.small_kernels import GATE, NORM, ROTATION, TORCH, TRITON, WAYS, gating, summing
from servery.engine.device_batch import DeviceBatch
from servery.engine.kv import KVCache
from servery.engine.norm import RMSNorm
from servery.engine.projection import HeadProjection
from servery.engine.traits import SILU

_BLOCK = 16
# Another way than Triton's has to be quicker by so much over all numbers of rows: it brings a compiler, or launches.
_MARGIN = 0.1
_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)

Work = Callable[[], object]


class Measurement(NamedTuple):
    """Seconds until the first result, compiling included, and of one when all is there: infinite where it is not taken."""

    part: str
    way: str
    rows: int
    first_s: float
    each_s: float


class _Given:
    """In the place of a product: what it would give."""

    shape = (0, 0)
    nbytes = 0

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __call__(self, x: Tensor) -> Tensor:
        return self._values

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return residual + self._values


def small(machine: Machine) -> Iterator[Row]:
    """Seconds of each way by number of rows, how long it takes before its first result, and which one is the quickest."""
    found = []
    for each in measured(machine):
        found.append(each)
        part, way, rows, first_s, each_s = each
        note = "not taken here" if math.isinf(each_s) else f"first result after {first_s:.2f} s"
        value = 0.0 if math.isinf(each_s) else each_s * 1e6
        yield Row("small", f"{part}, {rows} rows, {way}", value, "us", is_cost=True, note=note)
    totals = summed(found)
    for part, way in quickest(totals).items():
        yield Row("small", f"{part}: the quickest is {way}, all rows", totals[part][way] * 1e6, "us", is_cost=True)


def summed(found: Iterable[Measurement]) -> dict[str, dict[str, float]]:
    """Seconds of each part's ways over all numbers of rows; infinite where one was not taken."""
    seconds: dict[str, dict[str, float]] = {}
    for part, way, _, _, each_s in found:
        of_part = seconds.setdefault(part, {})
        of_part[way] = of_part.get(way, 0.0) + each_s
    return seconds


def quickest(seconds: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The way of each part: Triton's unless another is clearly quicker."""
    found = {}
    for part, by_way in seconds.items():
        best = min(by_way, key=by_way.__getitem__)
        is_clear = TRITON not in by_way or by_way[best] < by_way[TRITON] * (1 - _MARGIN)
        found[part] = best if is_clear else TRITON
    return found


def measured(machine: Machine) -> Iterator[Measurement]:
    """All ways that there are on the machine; a CPU has torch's alone."""
    config = shape_8b(machine)
    dtype = torch.float32 if machine.is_dry else torch.bfloat16
    with torch.inference_mode():
        for rows in (1, 4) if machine.is_dry else (1, 64, 4096):
            for part, ways in WAYS.items():
                for way in ways if machine.device.type == "cuda" else (TORCH,):
                    started = time.perf_counter()
                    try:
                        work = _work(config, machine.device, dtype, part, way, rows)
                        work()
                        machine.wait()
                        first_s = time.perf_counter() - started
                        yield Measurement(part, way, rows, first_s, machine.replayed_s(work))
                    except _ERRORS:
                        yield Measurement(part, way, rows, 0.0, math.inf)


def _work(config: ModelConfig, device: torch.device, dtype: torch.dtype, part: str, way: str, rows: int) -> Work:
    """One call of a way, as a layer makes it."""

    def random(*size: int) -> Tensor:
        return torch.randn(size, device=device).to(dtype)

    if part == NORM:
        total = summing(RMSNorm(random(config.hidden_size), config.norm_eps), way)
        hidden, added = random(rows, config.hidden_size), random(rows, config.hidden_size)
        return lambda: total(hidden, added)
    if part == GATE:
        gate, gate_up = gating(SILU, way), random(rows, 2 * config.intermediate_size)
        return lambda: gate(gate_up)
    assert part == ROTATION
    heads = config.num_heads + 2 * config.num_kv_heads
    project = HeadProjection(
        _Given(random(rows, heads * config.head_dim)),
        None,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
    blocks = list(range(-(-rows // _BLOCK)))
    cache = KVCache(config.only_layer(0), len(blocks), _BLOCK, dtype, str(device))
    batch = DeviceBatch.of(Batch.build([([1] * rows, 0, blocks)], _BLOCK), device)
    table, x = random(rows, 2, 1, config.head_dim), random(rows, 1)
    rotated = TorchProjection(project) if way == TORCH else FusedProjection(config, project)
    return lambda: rotated(x, table, batch, cache, 0)
