"""How long it takes from starting a server to its being ready."""

from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.claims.measurement import Figures, Measurement, Readings, spread
from benchmarks.claims.stage import Stage
from benchmarks.result import interleaved
from conformance.server import serving


def _measure(stage: Stage) -> dict[str, Any]:
    paths = {"amuse": stage.amuse, "148M": stage.grown}
    ready: dict[str, list[float]] = {name: [] for name in paths}
    for _, name in interleaved(tuple(paths), stage.pick(3, 1)):
        ready[name].append(ready_s(paths[name]))
    large = stage.engine(stage.large, dtype="bfloat16", kv_memory_bytes=512 << 20)
    loads = [large.info.load_s, *(_load_s(stage) for _ in range(stage.pick(2, 0)))]
    return {"ready_s": ready, "load_s": loads, "weight_bytes": large.info.weight_bytes}


def ready_s(model: Path) -> float:
    """Seconds until `servery serve` says that it is ready."""
    began = perf_counter()
    with serving(f"model={model}"):
        return perf_counter() - began


def _load_s(stage: Stage) -> float:
    return stage.engine(stage.large, dtype="bfloat16", kv_memory_bytes=512 << 20).info.load_s


def _readings(figures: Figures) -> Readings:
    rates = [figures["weight_bytes"] / 1e9 / each for each in figures["load_s"]]
    return {
        "cold-start": [spread(name, each) for name, each in figures["ready_s"].items()],
        "mapped-weights": [spread("473M", rates)],
    }


COLD_START = Measurement(
    "cold_start",
    40.0,
    "`servery serve` in a new process, files in the page cache, no network.",
    _measure,
    _readings,
    is_served=True,
)
