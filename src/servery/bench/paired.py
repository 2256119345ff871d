"""Whether B is better than A, from runs of the same requests at the same times, A and B in turn.

For each figure the ratio B / A and its interval, by a bootstrap over blocks of neighbouring requests (Künsch, 1989):
requests that share a batch are late together, so single requests are no independent evidence. The repeats are resampled
along with the blocks, and what is drawn is drawn of both sides: the same repeats and the same requests. That a prompt was
long, or that many came at once, then weighs on both alike and does not hide a difference. The verdict compares the
interval with 1 and with a margin within which a difference does not matter to anybody. Of many figures one would seem
different by chance alone, so the intervals are wide enough to hold together with 95 % (Bonferroni): `coverage_of`.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from servery.bench.percentile import quantile

ANSWERED, KEPT = "answered", "kept the SLO"  # the figures that are shares of the requests; all others are latencies
SHARES = frozenset({ANSWERED, KEPT})
BLOCK = 10
ROUNDS = 2000
CONFIDENCE = 0.95

Figure = Callable[[Sequence[float]], float]
Repeats = Sequence[Sequence[float | None]]  # of each repeat the value of each request; None: it has none


class Outcome(Enum):
    """What can be said of B against A."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same within the margin"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of A and of B, the ratio B / A with its interval, and what follows."""

    a: float
    b: float
    ratio: float
    low: float
    high: float
    outcome: Outcome


def compare(
    a: Repeats,
    b: Repeats,
    figure: Figure,
    *,
    margin: float,
    seed: int,
    rounds: int = ROUNDS,
    is_less_better: bool = True,
    coverage: float = CONFIDENCE,
) -> Comparison:
    """`a` and `b` hold the values of the same requests in each repeat, in their order; each repeat has at least one.

    `figure` is of pooled values, in any order, such as a percentile; a request without a value on one side still counts
    on the other.
    """
    source = random.Random(seed)
    at_a, at_b = figure(_pool(a)), figure(_pool(b))
    ratios = sorted(_ratio(figure(drawn_b), figure(drawn_a)) for drawn_a, drawn_b in _resampled(a, b, source, rounds))
    low, high = quantile(ratios, (1 - coverage) / 2), quantile(ratios, (1 + coverage) / 2)
    return Comparison(at_a, at_b, _ratio(at_b, at_a), low, high, _outcome(low, high, margin, is_less_better))


def coverage_of(figures: int) -> float:
    """What the interval of each of so many figures must cover for all to hold together."""
    return 1 - (1 - CONFIDENCE) / max(figures, 1)


def _outcome(low: float, high: float, margin: float, is_less_better: bool) -> Outcome:
    if low >= 1 - margin and high <= 1 + margin:
        return Outcome.SAME
    if high < 1:
        return Outcome.BETTER if is_less_better else Outcome.WORSE
    if low > 1:
        return Outcome.WORSE if is_less_better else Outcome.BETTER
    return Outcome.INCONCLUSIVE


def _ratio(b: float, a: float) -> float:
    if a == b:
        return 1.0
    return b / a if a else math.inf


def _pool(repeats: Repeats) -> list[float]:
    return [value for repeat in repeats for value in repeat if value is not None]


def _resampled(a: Repeats, b: Repeats, source: random.Random, rounds: int) -> Iterator[tuple[list[float], list[float]]]:
    """Values of both sides, drawn together; a draw that has none on one side is drawn again."""
    pairs = list(zip(a, b, strict=True))
    made = 0
    while made < rounds:
        drawn: tuple[list[float], list[float]] = ([], [])
        for pair in source.choices(pairs, k=len(pairs)):
            blocks = _blocks(min(map(len, pair)), source)
            for side, values in zip(drawn, pair, strict=True):
                side += [value for block in blocks for value in values[block] if value is not None]
        if all(drawn):
            made += 1
            yield drawn


def _blocks(length: int, source: random.Random) -> list[slice]:
    """As many blocks of neighbours as make up `length` requests."""
    block = min(BLOCK, length)
    begins = (source.randrange(length - block + 1) for _ in range(math.ceil(length / block)))
    return [slice(at, at + block) for at in begins]


def chance_of_less(a: Sequence[float], b: Sequence[float]) -> float:
    """The probability that a sample of B is below one of A, ties by half: the common language effect size."""
    ordered = sorted(a)
    wins = sum(2 * len(ordered) - bisect_left(ordered, value) - bisect_right(ordered, value) for value in b)
    return wins / (2 * len(a) * len(b)) if a and b else 0.5
