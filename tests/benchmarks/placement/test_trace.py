"""Every placement gets the same requests; they come in bursts, in conversations under shared beginnings."""

import itertools
import statistics

import pytest

from benchmarks.placement.trace import trace


def test_a_seed_has_one_trace() -> None:
    assert trace(10.0, 3.0, 20.0, 1) == trace(10.0, 3.0, 20.0, 1) != trace(10.0, 3.0, 20.0, 2)


def test_gaps_have_the_mean_and_the_variation_that_were_asked_for() -> None:
    arrivals = [each.at_s for each in trace(10.0, 3.0, 2_000.0, 1)]
    gaps = [later - at for at, later in itertools.pairwise(arrivals)]
    assert statistics.mean(gaps) == pytest.approx(0.1, rel=0.1)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(3.0, rel=0.1)


def test_further_turns_repeat_the_conversation_and_first_ones_a_department() -> None:
    arrivals = trace(10.0, 1.0, 60.0, 1)
    known = {str(each.messages) for each in arrivals}
    further = [each for each in arrivals if len(each.messages) > 2]
    assert 0.4 < len(further) / len(arrivals) < 0.7
    assert all(str(each.messages[:-2]) in known for each in further)
    assert len({each.messages[0]["content"] for each in arrivals}) == 4
