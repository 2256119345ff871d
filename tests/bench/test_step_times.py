from pathlib import Path

import pytest

from servery.bench.step_times import StepTime, StepTimer
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore


@pytest.fixture(scope="module")
def core(tiny: Path) -> EngineCore:
    return EngineCore(EngineConfig(model=tiny, threads=1, kv_memory_bytes=1 << 20))


@pytest.fixture(scope="module")
def timer(core: EngineCore) -> StepTimer:
    return StepTimer(core.model, core.cache)


def part(step: StepTime, name: str) -> tuple[int, int]:
    (found,) = [(each.bytes_read, each.operations) for each in step.parts if each.name == name]
    return found


def test_the_parts_add_up_to_the_step_and_the_weights(core: EngineCore, timer: StepTimer) -> None:
    step = timer.time(rows=2, tokens=1, context=8, rounds=3)

    assert [each.name for each in step.parts] == ["linears", "attention", "head", "rest"]
    assert step.seconds == pytest.approx(sum(each.seconds for each in step.parts), rel=0.5)
    assert all(each.seconds > 0 for each in step.parts[:3])
    assert part(step, "linears")[0] + part(step, "head")[0] <= core.info.weight_bytes


def test_work_grows_as_it_must(core: EngineCore, timer: StepTimer) -> None:
    one, two = (timer.time(rows=rows, tokens=1, context=8, rounds=1) for rows in (1, 2))
    piece = timer.time(rows=1, tokens=8, context=8, rounds=1)

    assert part(two, "linears") == (part(one, "linears")[0], 2 * part(one, "linears")[1])
    assert part(two, "attention") == (2 * part(one, "attention")[0], 2 * part(one, "attention")[1])
    assert part(piece, "linears")[1] == 8 * part(one, "linears")[1]
    assert part(piece, "attention")[1] * 8 == part(one, "attention")[1] * 36, "1 + 2 + ... + 8 pairs, not 8"
    assert part(one, "attention")[0] == 8 * core.info.kv_bytes_per_token


def test_a_cache_that_is_too_small_is_named(timer: StepTimer) -> None:
    with pytest.raises(ValueError, match="100000 contexts of 8 tokens do not fit"):
        timer.time(rows=100_000, tokens=1, context=8)
