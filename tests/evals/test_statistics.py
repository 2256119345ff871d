"""The formulas agree with enumeration, with published examples, and with what they promise about coverage."""

import math
import random
from fractions import Fraction
from itertools import product

import pytest

from servery.evals.statistics import (
    Interval,
    Pairs,
    difference_interval,
    mcnemar,
    ratio_lower_bound,
    ratio_score,
    smallest_baseline,
    wilson,
)

Z95 = 1.6448536269514722


def binomial(n: int, k: int, share: float) -> float:
    return math.comb(n, k) * share**k * (1 - share) ** (n - k)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(right: int, n: int, low: float, high: float) -> None:
    """Newcombe, 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    found = wilson(right, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_at_the_ends_and_of_nothing() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)
    assert wilson(0, 9).low == 0.0
    assert wilson(9, 9).high == 1.0
    assert wilson(9, 9).low == pytest.approx(1 - wilson(0, 9).high)


def test_wilson_covers_on_average_what_it_says() -> None:
    """By enumeration of all outcomes, over an even grid of true shares."""
    n = 40
    intervals = [wilson(right, n) for right in range(n + 1)]
    shares = [at / 200 for at in range(5, 196)]
    covered = [
        sum(binomial(n, k, share) for k, found in enumerate(intervals) if found.low <= share <= found.high)
        for share in shares
    ]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.9


@pytest.mark.parametrize("flips", range(11))
def test_mcnemar_is_the_sum_over_all_ways_of_flipping_coins(flips: int) -> None:
    for lost in range(flips + 1):
        extreme = abs(2 * lost - flips)
        as_far = sum(abs(2 * sum(coins) - flips) >= extreme for coins in product((0, 1), repeat=flips))
        assert Fraction(mcnemar(lost, flips - lost)) == Fraction(as_far, 2**flips)


def test_the_difference_has_the_published_interval() -> None:
    """Newcombe, 1998, "Improved confidence intervals for ... paired data", method 10, of 36, 12, 2 and 0 pairs."""
    found = difference_interval(Pairs(both=36, baseline_only=2, candidate_only=12, neither=0))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


def quadruples(n: int) -> list[tuple[int, int, int, int]]:
    return [
        (both, lost, gained, n - both - lost - gained)
        for both in range(n + 1)
        for lost in range(n + 1 - both)
        for gained in range(n + 1 - both - lost)
    ]


def chance(cells: tuple[int, ...], shares: tuple[float, ...]) -> float:
    ways = math.factorial(sum(cells))
    for cell in cells:
        ways //= math.factorial(cell)
    return ways * math.prod(share**cell for share, cell in zip(shares, cells, strict=True))


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1, 0.1), (0.6, 0.15, 0.05, 0.2), (0.4, 0.1, 0.2, 0.3)])
def test_the_difference_covers_what_it_says(shares: tuple[float, ...]) -> None:
    truth = shares[2] - shares[1]
    covered = 0.0
    for cells in quadruples(18):
        found = difference_interval(Pairs(*cells))
        covered += chance(cells, shares) * (found.low <= truth <= found.high)
    assert 0.93 < covered < 0.985


def likelihood(cells: tuple[int, ...], shares: tuple[float, ...]) -> float:
    return sum(cell * math.log(max(share, 1e-300)) for cell, share in zip(cells, shares, strict=True) if cell)


@pytest.mark.parametrize("cells", [(70, 8, 5, 17), (80, 0, 0, 20), (60, 4, 0, 16), (30, 2, 9, 9), (10, 0, 0, 0)])
@pytest.mark.parametrize("ratio", [0.95, 0.8, 1.1])
def test_the_score_uses_the_shares_that_fit_best_under_the_hypothesis(cells: tuple[int, ...], ratio: float) -> None:
    """The closed form against a search over all shares whose ratio is the one assumed."""
    n = sum(cells)
    steps = 200
    best, fit = -math.inf, (0.0, 0.0)
    for at in range(1, steps):
        share = at / steps / max(1.0, ratio)  # the baseline's
        low, high = max(0.0, (1 + ratio) * share - 1), min(share, ratio * share)
        for part in range(steps + 1):
            both = low + (high - low) * part / steps
            lost, gained = share - both, ratio * share - both
            value = likelihood(cells, (both, lost, gained, 1 - share - gained))
            if value > best:
                best, fit = value, (lost, gained)
    pairs = Pairs(*cells)
    expected = (pairs.candidate - ratio * pairs.baseline) / math.sqrt(n * ratio * sum(fit))
    assert ratio_score(pairs, ratio) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("cells", [(70, 8, 5, 17), (560, 40, 35, 65), (80, 0, 0, 20), (30, 2, 9, 9)])
def test_the_lower_bound_is_where_the_score_turns(cells: tuple[int, ...]) -> None:
    pairs = Pairs(*cells)
    bound = ratio_lower_bound(pairs)
    assert bound is not None
    assert ratio_score(pairs, bound) == pytest.approx(Z95, abs=1e-6)
    assert bound < pairs.candidate / pairs.baseline


def test_a_bound_where_nothing_was_right() -> None:
    assert ratio_lower_bound(Pairs(0, 0, 5, 5)) is None
    assert ratio_lower_bound(Pairs(0, 5, 0, 5)) == 0.0
    assert ratio_score(Pairs(0, 0, 0, 0), 0.95) == 0.0


def test_the_bound_rises_with_each_gain_and_falls_with_each_loss() -> None:
    bounds = [ratio_lower_bound(Pairs(80, lost, 4, 16)) or 0.0 for lost in range(8)]
    assert bounds == sorted(bounds, reverse=True)
    bounds = [ratio_lower_bound(Pairs(80, 4, gained, 16)) or 0.0 for gained in range(8)]
    assert bounds == sorted(bounds)


def test_too_few_answers_are_those_that_a_loss_could_spare() -> None:
    smallest = smallest_baseline(0.05)
    assert smallest == 59
    assert 0.95**smallest <= 0.05 < 0.95 ** (smallest - 1)


@pytest.mark.parametrize("gained", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("n", [90, 200])
def test_a_candidate_that_loses_five_percent_passes_in_five_of_a_hundred(n: int, gained: float) -> None:
    """The size of the gate's test at the border, by simulation with a fixed seed: 2,000 runs, 3 standard errors."""
    rng = random.Random(n + round(1000 * gained))
    baseline = 0.8
    lost = 0.05 * baseline + gained
    weights = (baseline - lost, lost, gained, 1 - baseline - gained)
    passed = 0
    for _ in range(2000):
        drawn = rng.choices(range(4), weights, k=n)
        pairs = Pairs(*(drawn.count(cell) for cell in range(4)))
        passed += pairs.baseline >= 59 and ratio_score(pairs, 0.95) > Z95
    assert passed / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
