import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from servery.engine.stats import EngineInfo, EngineStats
from servery.server.ceilings_watch import CeilingsWatch, Engine
from servery.telemetry.ceilings import Ceilings
from tests.telemetry.test_metrics import INFO, STATS

FILE = json.dumps({"machine": {"bandwidth": {"best_bytes_per_s": 7.0}, "operations_per_s": {}}})
KNOWN = Ceilings(read_bytes_per_s=7.0)


class FakeEngine:
    def __init__(self) -> None:
        self.steps = 0

    def stats(self) -> EngineStats | None:
        return msgspec.structs.replace(STATS, steps=self.steps)

    def info(self) -> EngineInfo | None:
        return INFO


class Story:
    """An engine, and a machine that is measured by writing a file."""

    def __init__(self, folder: Path, given: Ceilings | None = None) -> None:
        self.engine, self.now, self.measured = FakeEngine(), 0.0, 0
        self.text, self.works, self.steps_meanwhile = FILE, True, 0
        self.path = folder / "kept.json"
        engines: dict[str, Engine] = {"m": self.engine}
        self.watch = CeilingsWatch(
            lambda: engines,
            given,
            measure=self.measure,
            place=lambda device, threads: self.path,
            clock=lambda: self.now,
        )

    async def measure(self, device: str, threads: int, path: Path) -> bool:
        self.measured += 1
        self.engine.steps += self.steps_meanwhile
        self.write(path)
        return self.works

    def write(self, path: Path) -> None:
        path.write_text(self.text)

    def look(self, *, after_s: float = 0.0) -> Ceilings | None:
        self.now += after_s
        asyncio.run(self.watch.look())
        return self.watch.of(INFO)


def test_the_machine_is_measured_once_nobody_was_served_for_a_minute(tmp_path: Path) -> None:
    story = Story(tmp_path)
    assert [story.look(), story.look(after_s=59)] == [None, None]
    story.engine.steps += 1
    assert [story.look(after_s=1), story.look(after_s=59)] == [None, None]
    assert story.measured == 0
    assert story.look(after_s=1) == KNOWN
    assert story.look(after_s=100) == KNOWN
    assert story.measured == 1
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


def test_what_was_kept_is_taken_up_at_once(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.path.write_text(FILE)
    assert story.look() == KNOWN
    assert story.measured == 0


def test_what_was_measured_while_somebody_was_served_counts_for_nothing(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.steps_meanwhile = 1
    story.look()
    assert story.look(after_s=60) is None
    assert list(tmp_path.iterdir()) == []
    story.steps_meanwhile = 0
    assert [story.look(), story.look(after_s=60)] == [None, KNOWN]


@pytest.mark.parametrize(("text", "works"), [("{", True), (FILE, False)])
def test_a_machine_that_cannot_be_measured_is_left_alone_after_a_few_tries(
    tmp_path: Path, text: str, works: bool
) -> None:
    story = Story(tmp_path)
    story.text, story.works = text, works
    for _ in range(20):
        assert story.look(after_s=100) is None
    assert story.measured == 5


def test_ceilings_that_were_given_count_and_nothing_is_measured(tmp_path: Path) -> None:
    given = Ceilings(read_bytes_per_s=1.0)
    story = Story(tmp_path, given)
    assert [story.look(after_s=100), story.look(after_s=100)] == [given, given]
    assert story.measured == 0
