"""Whether B is better than A, from runs of the same requests at the same times, A and B in turn.

For each figure the ratio B / A and its 95 % interval, by a bootstrap over blocks of neighbouring requests (Künsch, 1989):
requests that share a batch are late together, so single requests are no independent evidence. The repeats are resampled
along with the blocks. The verdict compares the interval with 1 and with a margin within which a difference does not
matter to anybody.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from servery.bench.percentile import quantile

BLOCK = 10
ROUNDS = 1000

Figure = Callable[[Sequence[float]], float]


class Outcome(Enum):
    """What can be said of B against A."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same within the margin"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of A and of B, the ratio B / A with its 95 % interval, and what follows."""

    a: float
    b: float
    ratio: float
    low: float
    high: float
    outcome: Outcome


def compare(
    a: Sequence[Sequence[float]],
    b: Sequence[Sequence[float]],
    figure: Figure,
    *,
    margin: float,
    seed: int,
    rounds: int = ROUNDS,
    is_less_better: bool = True,
) -> Comparison:
    """`a` and `b` hold the samples of each repeat, in the order of the requests; each repeat has at least one.

    `figure` is of pooled samples, in any order, such as a percentile.
    """
    source = random.Random(seed)
    at_a, at_b = figure(_pool(a)), figure(_pool(b))
    ratios = sorted(_ratio(figure(_resample(b, source)), figure(_resample(a, source))) for _ in range(rounds))
    low, high = quantile(ratios, 0.025), quantile(ratios, 0.975)
    return Comparison(at_a, at_b, _ratio(at_b, at_a), low, high, _outcome(low, high, margin, is_less_better))


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


def _pool(repeats: Sequence[Sequence[float]]) -> list[float]:
    return [value for repeat in repeats for value in repeat]


def _resample(repeats: Sequence[Sequence[float]], source: random.Random) -> list[float]:
    drawn: list[float] = []
    for repeat in source.choices(repeats, k=len(repeats)):
        block = min(BLOCK, len(repeat))
        for _ in range(math.ceil(len(repeat) / block)):
            at = source.randrange(len(repeat) - block + 1)
            drawn += repeat[at : at + block]
    return drawn


def chance_of_less(a: Sequence[float], b: Sequence[float]) -> float:
    """The probability that a sample of B is below one of A, ties by half: the common language effect size."""
    ordered = sorted(a)
    wins = sum(2 * len(ordered) - bisect_left(ordered, value) - bisect_right(ordered, value) for value in b)
    return wins / (2 * len(a) * len(b)) if a and b else 0.5
