"""Bounds hold what they promise: also near 1, and where misses come together."""

import math
import random

import pytest

from servery.bench.attainment import attained, design_effect


@pytest.mark.parametrize(("good", "n"), [(95, 100), (1, 3), (399, 400), (50, 100)])
def test_the_bounds_solve_the_equation_of_the_score_test(good: int, n: int) -> None:
    """What was observed lies z standard errors away from each bound, the error being that at the bound."""
    got = attained([True] * good + [False] * (n - good))
    assert (got.good, got.n, got.share) == (good, n, good / n)
    for bound in (got.low, got.high):
        assert abs(got.share - bound) == pytest.approx(1.644854 * math.sqrt(bound * (1 - bound) / n), rel=1e-5)


def test_no_miss_is_no_certainty() -> None:
    got = attained([True] * 100)
    assert got.low == pytest.approx(0.9737, abs=2e-4)
    assert got.high == 1.0
    assert (attained([]).low, attained([]).high) == (0.0, 1.0)


@pytest.mark.parametrize(("p", "n"), [(0.9, 100), (0.99, 400), (0.99, 1000)])
def test_the_true_share_lies_above_the_lower_bound_about_19_times_of_20(p: float, n: int) -> None:
    source = random.Random(3)
    held = sum(attained([source.random() < p for _ in range(n)]).low <= p for _ in range(600))
    assert held / 600 >= 0.93


def test_misses_that_come_together_widen_the_bounds() -> None:
    """Each tenth block of ten misses whole: a hundred requests say no more than ten."""
    together = ([True] * 90 + [False] * 10) * 5
    assert design_effect(together, 10) == pytest.approx(10, rel=0.05)
    assert attained(together, 10).low < attained(together).low
    source = random.Random(1)
    alone = [source.random() < 0.9 for _ in range(5000)]
    assert design_effect(alone, 10) == pytest.approx(1.0, abs=0.1)
