import json
from pathlib import Path

import pytest

from servery.bench.bandwidth import Bandwidth
from servery.bench.roofline import Machine, RooflineOptions, decoding_context, run
from servery.bench.step_times import PartTime
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError

MACHINE = Machine(
    threads=1, bandwidth=Bandwidth(10e9, 9e9, 1, 512 << 20, 9), operations_per_s={"float32": 100e9, "bfloat16": 200e9}
)


def test_the_limit_of_a_part_is_the_larger_of_reading_and_multiplying() -> None:
    reading = PartTime(name="linears", seconds=1.0, bytes_read=10**9, operations=10**9)
    multiplying = PartTime(name="linears", seconds=1.0, bytes_read=10**6, operations=10**12)

    assert MACHINE.limit_s(reading, "bfloat16") == pytest.approx(0.1)
    assert (MACHINE.limit_s(multiplying, "float32"), MACHINE.limit_s(multiplying, "bfloat16")) == (10.0, 5.0)


@pytest.mark.parametrize(
    ("asked", "limit", "context"), [(None, 4096, 512), (None, 256, 256), (256, 256, 256), (16, 256, 16)]
)
def test_what_decodes_is_as_long_as_was_said(asked: int | None, limit: int, context: int) -> None:
    assert decoding_context(asked, limit) == context


def test_a_context_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(
        LoadError, match=r"^--context is 257 and the model's context is 256 tokens; give at most that\.$"
    ):
        decoding_context(257, 256)


@pytest.mark.slow
def test_a_run_prints_and_writes_every_step(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = EngineConfig(model=tiny, threads=1, kv_memory_bytes=1 << 20)
    path = tmp_path / "roofline.json"

    assert run(RooflineOptions(engine=engine, threads=1, context=16, json_path=path)) == 0

    result = json.loads(path.read_text())
    assert [(step["rows"], step["tokens"]) for step in result["steps"]] == [(1, 1), (8, 1), (32, 1), (1, 16)]
    assert set(result["machine"]["operations_per_s"]) == {"float32", "bfloat16", "int8"}
    assert result["median_mbu"] > 0
    assert "read bandwidth" in capsys.readouterr().out
