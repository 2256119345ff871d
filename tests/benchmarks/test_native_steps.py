"""The measurement of whole steps has every figure of each way."""

from benchmarks.native_steps import Case, measure
from servery import amuse
from servery.engine.config import EngineConfig
from tests.engine.native.kernels import VARIANTS, require


def test_every_case_is_measured_by_each_way():
    require(VARIANTS[0] if isinstance(VARIANTS[0], str) else None)
    config = EngineConfig(model=amuse.path("draft"), kv_memory_bytes=1 << 23, max_model_len=64)
    one, piece = measure(config, [Case(2, 1, 16), Case(1, 8, 8)], rounds=2)
    assert (one["rows"], one["tokens"], one["context"], piece["tokens"]) == (2, 1, 16, 8)
    assert {way: len(times) for way, times in one["runs"].items()} == {"loop": 2, "kernels": 2, "torch": 2}
    assert set(piece["times_as_fast_as"]) == {"kernels", "torch"}
