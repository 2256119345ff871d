"""Intervals per token when tokens of one passage hang together: they hold what they promise."""

import random

import pytest

from servery.evals.estimate import FEWEST, Estimate, mean_per_token, share_of_tokens, student_quantile
from servery.evals.statistics import wilson


@pytest.mark.parametrize(
    ("freedom", "expected"), [(4, 2.776), (9, 2.262), (29, 2.045), (120, 1.980), (10**6, 1.960)]
)  # from the tables of Student's distribution
def test_students_quantile(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=0.008)


def test_the_mean_is_over_tokens_not_over_passages() -> None:
    found = mean_per_token([10.0, 0.0, 0.0, 0.0, 0.0], [10, 1, 1, 1, 1])
    assert found.value == pytest.approx(10 / 14)


def test_passages_of_one_token_are_an_ordinary_sample() -> None:
    """Then the ratio estimator is the mean and its variance s^2 / n: 1..9 have mean 5 and s^2 = 7.5."""
    found = mean_per_token([float(value) for value in range(1, 10)], [1] * 9)
    half = student_quantile(0.975, 8) * (7.5 / 9) ** 0.5
    assert found.value == 5.0
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((5 - half, 5 + half))


def test_too_few_passages_tell_nothing() -> None:
    assert mean_per_token([1.0] * (FEWEST - 1), [2] * (FEWEST - 1)) == Estimate(0.5, None)
    assert share_of_tokens([1] * (FEWEST - 1), [2] * (FEWEST - 1)) == Estimate(0.5, None)


def test_where_all_tokens_agree_passages_are_counted() -> None:
    found = share_of_tokens([50] * 100, [50] * 100)
    assert found == Estimate(1.0, wilson(100, 100))


def test_independent_tokens_have_wilsons_interval() -> None:
    rng = random.Random(3)
    hits = [sum(rng.random() < 0.9 for _ in range(20)) for _ in range(400)]
    found = share_of_tokens(hits, [20] * 400).interval
    expected = wilson(sum(hits), 8000)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.001)


def test_tokens_that_hang_together_have_a_wider_one() -> None:
    """All or nothing: 30 passages of 40 tokens say as much as 30 tokens."""
    found = share_of_tokens([40] * 27 + [0] * 3, [40] * 30).interval
    expected = wilson(27, 30)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


@pytest.mark.parametrize(("passages", "lowest"), [(8, 0.88), (40, 0.92)])
def test_the_intervals_cover_what_they_promise(passages: int, lowest: float) -> None:
    """2,000 samples of passages of any length, each with a level of its own: about 95 % of the intervals hold the truth.

    With as few as 8, of which one in five is odd, some samples have no odd one: then the interval of a share is narrow.
    """
    rng = random.Random(passages)
    means = shares = 0
    for _ in range(2000):
        tokens = [rng.randint(5, 60) for _ in range(passages)]
        levels = [rng.gauss(3.0, 0.5) for _ in tokens]
        sums = [count * level + rng.gauss(0.0, count**0.5) for count, level in zip(tokens, levels, strict=True)]
        mean = mean_per_token(sums, tokens).interval
        odds = [0.97 if rng.random() < 0.8 else 0.82 for _ in tokens]
        share = share_of_tokens([_binomial(rng, n, p) for n, p in zip(tokens, odds, strict=True)], tokens).interval
        assert mean is not None
        assert share is not None
        means += mean.low <= 3.0 <= mean.high
        shares += share.low <= 0.94 <= share.high
    assert lowest < means / 2000 < 0.97
    assert lowest < shares / 2000 < 0.985


def _binomial(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))
