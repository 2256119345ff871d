"""A verdict about A and B is right as often as it says."""

import random
from collections.abc import Sequence

import pytest

from servery.bench.paired import Outcome, chance_of_less, compare, coverage_of
from servery.bench.percentile import quantile


def median(values: Sequence[float]) -> float:
    return quantile(sorted(values), 0.5)


def repeats(factor: float, seed: int, n: int = 150) -> list[list[float]]:
    source = random.Random(seed)
    return [[factor * source.lognormvariate(0, 0.4) for _ in range(n)] for _ in range(3)]


@pytest.mark.parametrize(
    ("factor", "margin", "outcome"),
    [
        (0.7, 0.1, Outcome.BETTER),
        (1.4, 0.1, Outcome.WORSE),
        (1.0, 0.2, Outcome.SAME),
        (1.0, 0.02, Outcome.INCONCLUSIVE),
    ],
)
def test_a_difference_is_told_from_noise(factor: float, margin: float, outcome: Outcome) -> None:
    """3 x 150 requests cannot show that two servers are within a fiftieth of each other."""
    found = compare(repeats(1.0, 1), repeats(factor, 2), median, margin=margin, seed=0)
    assert (found.outcome, found.low < factor < found.high) == (outcome, True)
    assert found.ratio == pytest.approx(found.b / found.a)


def test_what_weighs_on_both_alike_hides_no_difference() -> None:
    """Prompts differ by far more than the servers do; since both are asked the same, a tenth shows."""
    source = random.Random(5)
    lengths = [[source.lognormvariate(0, 1.0) for _ in range(100)] for _ in range(3)]
    a = [[length * source.uniform(0.98, 1.02) for length in repeat] for repeat in lengths]
    b = [[1.1 * length * source.uniform(0.98, 1.02) for length in repeat] for repeat in lengths]
    found = compare(a, b, median, margin=0.02, seed=0)
    assert found.outcome is Outcome.WORSE
    assert found.low < 1.1 < found.high
    assert found.high - found.low < 0.1
    other = [[1.1 * value for value in repeat] for repeat in repeats(1.0, 9, n=100)]
    assert compare(a, other, median, margin=0.02, seed=0).outcome is Outcome.INCONCLUSIVE


def test_a_request_that_one_side_did_not_answer_counts_for_the_other() -> None:
    a: list[list[float | None]] = [[1.0, 2.0, 3.0] * 10] * 3
    b: list[list[float | None]] = [[1.0, None, 3.0] * 10] * 3
    found = compare(a, b, lambda values: sum(values) / len(values), margin=0.5, seed=0)
    assert (found.a, found.b) == (2.0, 2.0)


def test_many_figures_together_seldom_call_identical_servers_different() -> None:
    """Six correlated figures of runs whose levels differ by chance: fewer than one comparison in ten is a false alarm."""
    figures = (median, lambda values: quantile(sorted(values), 0.95))

    def sides(source: random.Random) -> list[list[list[float]]]:
        levels = [source.lognormvariate(0, 0.02) for _ in range(3)]
        lengths = [[source.lognormvariate(0, 0.6) for _ in range(60)] for _ in levels]
        return [
            [
                [level * one * source.lognormvariate(0, spread) for one in of]
                for level, of in zip(levels, lengths, strict=True)
            ]
            for spread in (0.05, 0.1, 0.15)
        ]

    def differs(seed: int, coverage: float) -> bool:
        found = [
            compare(a, b, figure, margin=0.0, seed=seed, rounds=150, coverage=coverage).outcome
            for a, b in zip(sides(random.Random(seed)), sides(random.Random(seed + 500)), strict=True)
            for figure in figures
        ]
        return any(one in (Outcome.BETTER, Outcome.WORSE) for one in found)

    assert coverage_of(6) == pytest.approx(1 - 0.05 / 6)
    assert sum(differs(seed, coverage_of(6)) for seed in range(20)) <= 2


def test_more_may_be_better() -> None:
    found = compare(repeats(1.0, 1), repeats(1.4, 2), median, margin=0.1, seed=0, is_less_better=False)
    assert found.outcome is Outcome.BETTER


def test_identical_servers_are_seldom_called_different() -> None:
    """Also where neighbours are late together."""

    def clustered(seed: int) -> list[list[float]]:
        source = random.Random(seed)
        return [[base * source.uniform(0.9, 1.1) for base in _runs(source)] for _ in range(3)]

    def _runs(source: random.Random) -> list[float]:
        return [level for _ in range(25) for level in [source.lognormvariate(0, 0.5)] * 5]

    outcomes = [
        compare(clustered(seed), clustered(seed + 500), median, margin=0.0, seed=seed, rounds=200).outcome
        for seed in range(40)
    ]
    assert sum(one in (Outcome.BETTER, Outcome.WORSE) for one in outcomes) <= 6


def test_nothing_against_nothing_is_the_same() -> None:
    assert compare([[0.0] * 20], [[0.0] * 20], median, margin=0.05, seed=0).outcome is Outcome.SAME


def test_the_chance_of_being_faster_counts_ties_by_half() -> None:
    a, b = [1.0, 2.0, 3.0], [1.0, 2.0]
    brute = sum((y < x) + 0.5 * (y == x) for x in a for y in b) / 6
    assert chance_of_less(a, b) == pytest.approx(brute)
