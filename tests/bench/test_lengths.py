"""Lengths follow the distributions asked for."""

import random
import statistics

import pytest

from servery.bench.lengths import LogNormal, parse_lengths
from servery.bench.span import Span


def test_a_log_normal_length_has_its_mean_and_its_99th_percentile() -> None:
    source = random.Random(1)
    drawn = sorted(parse_lengths("lognormal:211,601").draw(source) for _ in range(40_000))
    assert statistics.mean(drawn) == pytest.approx(211, rel=0.02)
    assert drawn[39_600] == pytest.approx(601, rel=0.05)
    assert drawn[0] >= 1


def test_a_median_and_a_mean_describe_one_too() -> None:
    source = random.Random(2)
    drawn = sorted(LogNormal.by_median(13, 28).draw(source) for _ in range(40_000))
    assert drawn[20_000] == 13
    assert statistics.mean(drawn) == pytest.approx(28, rel=0.05)


def test_a_span_is_a_length_too() -> None:
    assert parse_lengths("50:150") == Span(50, 150)


@pytest.mark.parametrize("text", ["lognormal:", "lognormal:5", "lognormal:9,3", "lognormal:a,b", "lognormal:1,100000"])
def test_impossible_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lognormal:200,600"):
        parse_lengths(text)
