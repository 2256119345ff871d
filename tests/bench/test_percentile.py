"""Percentiles are NumPy's, come with an interval that holds, and are not stated on too few samples."""

import random
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.bench.percentile import Distribution, Percentile, interval_ranks, percentile, quantile, smallest_n


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_is_numpys(samples: list[float], q: float) -> None:
    assert quantile(sorted(samples), q) == pytest.approx(float(np.quantile(samples, q)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000)])
def test_ten_samples_must_lie_beyond(q: float, n: int) -> None:
    assert smallest_n(q) == n
    samples = [float(i) for i in range(n)]
    assert percentile(samples[1:], q) == Percentile(None)
    assert percentile(samples, q).value == pytest.approx(q * (n - 1))


@pytest.mark.parametrize(("n", "q", "ranks"), [(100, 0.5, (39, 60)), (100, 0.9, (83, 95)), (1000, 0.99, (982, 996))])
def test_the_interval_is_the_binomial_one(n: int, q: float, ranks: tuple[int, int]) -> None:
    """Both tails outside are at most 2.5 %, and one rank nearer they would not be."""
    low, high = interval_ranks(n, q)
    below = list(accumulate(comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)))
    assert (low, high) == ranks
    assert below[low] <= 0.025 < below[low + 1]
    assert below[high - 1] < 0.975 <= below[high]


def test_the_interval_holds_as_often_as_it_claims() -> None:
    """Of 400 runs of 100 samples, the true p90 lies inside in at least 95 %, less three standard errors."""
    source = random.Random(1)
    runs = [percentile(sorted(source.random() for _ in range(100)), 0.9) for _ in range(400)]
    inside = sum(run.low <= 0.9 <= run.high for run in runs if run.low is not None and run.high is not None)
    assert inside / 400 >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5


def test_a_distribution_of_nothing_has_no_figures() -> None:
    empty = Percentile(None)
    assert Distribution.of([]) == Distribution(0, None, None, dict.fromkeys(("p50", "p90", "p95", "p99"), empty))


def test_a_distribution_does_not_mind_the_order() -> None:
    samples = [float(i) for i in range(40)]
    shuffled = random.Random(2).sample(samples, 40)
    assert Distribution.of(shuffled) == Distribution.of(samples)
    assert (Distribution.of(shuffled).mean, Distribution.of(shuffled).maximum) == (19.5, 39.0)
