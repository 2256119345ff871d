import os
from collections.abc import Iterator

import pytest

from servery.engine.pulse import READING_S, SILENCE_S, UNKNOWN_STEP_S, Beat, Pulse, shared_memory


@pytest.fixture
def both_ends() -> Iterator[tuple[Pulse, Pulse]]:
    """The loop's end at 5 s, and its server's."""
    fd = shared_memory()
    ends = Pulse(fd, lambda: 5.0), Pulse(fd)
    os.close(fd)
    yield ends
    for end in ends:
        end.close()


def test_before_the_first_beat_there_is_none(both_ends: tuple[Pulse, Pulse]) -> None:
    assert both_ends[1].last() == Beat(0.0, 0.0, 0.0)


def test_what_one_end_writes_the_other_reads(both_ends: tuple[Pulse, Pulse]) -> None:
    loop, server = both_ends
    seen = []
    for write in (loop.beat, lambda: loop.step(0.02), lambda: loop.step(3.0), lambda: loop.step(None), loop.read_files):
        write()
        seen.append(server.last())
    assert seen == [
        Beat(5.0, SILENCE_S, SILENCE_S),
        Beat(5.0, SILENCE_S, SILENCE_S),
        Beat(5.0, 30.0, SILENCE_S),
        Beat(5.0, UNKNOWN_STEP_S, SILENCE_S),
        Beat(5.0, READING_S, READING_S),
    ]


def test_a_step_that_waits_for_other_processes_may_be_still_while_they_compute() -> None:
    fd = shared_memory()
    loop, server = Pulse(fd, lambda: 5.0, others_s=60.0), Pulse(fd)
    os.close(fd)
    seen = []
    for write in (loop.beat, lambda: loop.step(0.02), lambda: loop.step(7.0)):
        write()
        seen.append(server.last())
    assert seen == [Beat(5.0, SILENCE_S, SILENCE_S), Beat(5.0, 60.0, 60.0), Beat(5.0, 70.0, 70.0)]
    loop.close()
    server.close()
