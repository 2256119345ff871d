"""Percentiles of raw samples, exact, and when there are too few samples to state one.

Linear interpolation between order statistics (NumPy's default, type 7 of Hyndman and Fan, 1996). The interval is
distribution-free: the order statistics between which the true percentile lies with 95 % probability, by the binomial
distribution of how many samples fall below it. Nothing is assumed about the shape, but that samples are independent;
requests that share a batch are not quite, so the true interval is somewhat wider.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

QUANTILES = (0.50, 0.90, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Percentile:
    """One percentile and its 95 % interval; `value` None means that n is too small to state it."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is told of many samples of one quantity, in the unit of the samples."""

    n: int
    mean: float | None
    maximum: float | None
    percentiles: dict[str, Percentile]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Distribution":
        """The summary of `samples`, in any order."""
        ordered = sorted(samples)
        return cls(
            n=len(ordered),
            mean=math.fsum(ordered) / len(ordered) if ordered else None,
            maximum=ordered[-1] if ordered else None,
            percentiles={f"p{q * 100:.0f}": percentile(ordered, q) for q in QUANTILES},
        )


def percentile(ordered: Sequence[float], q: float) -> Percentile:
    """The `q`-quantile (0 < q < 1) of samples in ascending order, if there are enough of them."""
    if len(ordered) < smallest_n(q):
        return Percentile(None)
    low, high = interval_ranks(len(ordered), q)
    return Percentile(quantile(ordered, q), ordered[low], ordered[high])


def smallest_n(q: float) -> int:
    """Fewer samples than this have less than ten expected beyond the `q`-quantile: too few to state it."""
    return math.ceil(round(10 / (1 - q), 6))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The `q`-quantile of at least one sample in ascending order, type 7."""
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def interval_ranks(n: int, q: float, coverage: float = 0.95) -> tuple[int, int]:
    """Zero-based ranks of the order statistics that enclose the true `q`-quantile with at least `coverage`.

    The number of samples below the quantile is binomial (n, q); each tail outside gets at most half of the rest. Where
    n is too small for that the first or last sample stands in.
    """
    tail = (1 - coverage) / 2
    total, low, high = 0.0, 0, n - 1
    start = max(0, math.floor(n * q - 8 * math.sqrt(n * q * (1 - q))))  # what lies below does not count
    for k in range(start, n + 1):
        previous, total = total, total + _binomial(n, k, q)
        if previous <= tail < total:
            low = max(k - 1, 0)
        if previous < 1 - tail <= total:
            high = min(k, n - 1)
            break
    return low, high


def _binomial(n: int, k: int, q: float) -> float:
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_ways + k * math.log(q) + (n - k) * math.log1p(-q))
