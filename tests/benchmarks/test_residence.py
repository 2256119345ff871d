"""The benchmark of sleeping: answers must stay, and figures are medians."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks import residence
from servery.engine.config import EngineConfig


class FakeEngine:
    """Answers what it is told to, one answer after the other."""

    answers: list[list[int]]

    def __init__(self, config: EngineConfig) -> None:
        self.info = type("Info", (), {"pid": "self", "weight_bytes": 100})()

    def __getattr__(self, name: str) -> Any:
        async def done() -> None: ...

        return done


@pytest.mark.parametrize("last", [7, 8])
def test_a_round_goes_through_all_levels_and_watches_the_answers(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [[7], [7], [7], [last]]

    async def answer(engine: FakeEngine) -> list[int]:
        return answers.pop(0)

    monkeypatch.setattr(residence, "AsyncEngine", FakeEngine)
    monkeypatch.setattr(residence, "answer", answer)
    config = EngineConfig(model=Path("m"))
    if last == 8:
        with pytest.raises(SystemExit, match=r"the answers differ: \[\[7\], \[7\], \[7\], \[8\]\]"):
            asyncio.run(residence.round_of(config))
    else:
        figures = asyncio.run(residence.round_of(config))
        assert set(figures) == {*residence.TIMES, "awake_bytes", "asleep_bytes", "weight_bytes"}


def test_figures_are_medians() -> None:
    assert residence.medians([{"a": 1.0}, {"a": 9.0}, {"a": 2.0}]) == {"a": 2.0}
