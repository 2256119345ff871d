"""The share of requests that kept an SLO, with what a finite number of them can say about it.

Bounds are one-sided Wilson score bounds (Wilson, 1927; Brown, Cai and DasGupta, 2001): near 0 and 1 they hold what they
promise, where the usual normal bounds do not. They take requests as independent. Requests that share a batch miss
together, so `design_effect` widens them: the variance of the misses per block of time over that of a binomial.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Attainment:
    """`good` of `n` requests; `low` and `high` are one-sided bounds, each with the confidence of this module."""

    good: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share observed."""
        return self.good / self.n if self.n else 0.0


def attained(is_good: Sequence[bool], block: int = 1) -> Attainment:
    """Of requests in the order of their arrival, compared in blocks of `block` neighbours."""
    good, n = sum(is_good), len(is_good)
    effective = n / design_effect(is_good, block)
    return Attainment(good, n, wilson(good, n, effective, -1), wilson(good, n, effective, +1))


def wilson(good: int, n: int, effective: float, side: int) -> float:
    """The lower (`side` -1) or upper (+1) bound of the share `good` / `n`, as if of `effective` requests."""
    if n == 0:
        return 0.0 if side < 0 else 1.0
    z, p = NormalDist().inv_cdf(CONFIDENCE), good / n
    middle = p + z * z / (2 * effective)
    spread = z * math.sqrt(p * (1 - p) / effective + z * z / (4 * effective**2))
    return min(1.0, max(0.0, (middle + side * spread) / (1 + z * z / effective)))


def design_effect(is_good: Sequence[bool], block: int) -> float:
    """How much more the misses vary from block to block than independent ones would; at least 1."""
    blocks = [is_good[at : at + block] for at in range(0, len(is_good) - block + 1, block)]
    p = sum(is_good) / len(is_good) if is_good else 0.0
    if block < 2 or len(blocks) < 10 or p in (0.0, 1.0):
        return 1.0
    spread = sum((sum(one) / block - p) ** 2 for one in blocks) / (len(blocks) - 1)
    return max(1.0, spread / (p * (1 - p) / block))
