"""TTFT, TPOT, ITL and E2E follow their definitions, also where they are undefined."""

import pytest

from servery.bench.client import Delta, Usage
from servery.bench.sample import Sample


def sample(*deltas: Delta) -> Sample:
    taken = Sample(sent=10.0)
    for delta in deltas:
        taken.take(delta)
    return taken


def test_the_times_of_an_answer_are_as_defined() -> None:
    """Five tokens in three events: the first chunk without text does not count, the last has no text but ends it."""
    taken = sample(
        Delta(10.1),
        Delta(10.5, "a"),
        Delta(10.7, "bc"),
        Delta(11.1, "d"),
        Delta(11.3, finish_reason="length"),
        Delta(11.9, usage=Usage(7, 5, 3)),
    )
    assert taken.ttft_s == pytest.approx(0.5)
    assert taken.tpot_s == pytest.approx(0.8 / 4)
    assert taken.e2e_s == pytest.approx(1.3)
    assert taken.gaps_s == pytest.approx([0.2, 0.4])
    assert (taken.output_tokens, taken.prompt_tokens, taken.cached_tokens) == (5, 7, 3)
    assert (taken.finish_reason, taken.is_good) == ("length", True)


def test_reasoning_counts_as_output() -> None:
    assert sample(Delta(10.5, reasoning="hm"), Delta(10.7, "a")).ttft_s == pytest.approx(0.5)


def test_without_the_servers_count_events_are_counted() -> None:
    assert sample(Delta(11, "a"), Delta(12, "b")).output_tokens == 2


@pytest.mark.parametrize(
    ("taken", "figures"),
    [
        (sample(), (None, None, None, [])),
        (sample(Delta(11, finish_reason="stop")), (None, None, 1.0, [])),
        (sample(Delta(11, "a", finish_reason="stop")), (1.0, None, 1.0, [])),
    ],
)
def test_what_is_undefined_is_none(taken: Sample, figures: tuple[object, ...]) -> None:
    """No text: no TTFT; one token: no TPOT."""
    assert (taken.ttft_s, taken.tpot_s, taken.e2e_s, taken.gaps_s) == figures
