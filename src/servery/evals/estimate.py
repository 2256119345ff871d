"""Figures per token with their uncertainty. Tokens of one passage hang together, so passages are what is counted.

The mean over all tokens is the ratio of two sums over passages; its variance is that of the ratio estimator (Cochran,
Sampling Techniques, 1977, section 6.3) with passages as the sample, its interval Student's. A share of tokens that is near 0
or 1 gets Wilson's interval with the effective number of tokens: the number divided by how many times larger the variance
is than for independent tokens (Kish's design effect), and lowered as Student's interval is wider than the normal one (Korn
and Graubard, 1998); where no variance was seen, the number of passages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from servery.evals.statistics import Interval, wilson

COVERAGE = 0.95
# With fewer passages nothing is said of the uncertainty.
FEWEST = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; None where there are too few passages to tell."""

    value: float
    interval: Interval | None


def mean_per_token(sums: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """The mean over all tokens of passages with these `sums` over their `tokens` (1 or more each)."""
    mean = math.fsum(sums) / sum(tokens)
    if len(sums) < FEWEST:
        return Estimate(mean, None)
    half = student_quantile((1 + COVERAGE) / 2, len(sums) - 1) * math.sqrt(_variance(sums, tokens, mean))
    return Estimate(mean, Interval(mean - half, mean + half))


def share_of_tokens(hits: Sequence[int], tokens: Sequence[int]) -> Estimate:
    """The share of all tokens that are hits, of passages with these numbers of both."""
    n = sum(tokens)
    share = sum(hits) / n
    if len(hits) < FEWEST:
        return Estimate(share, None)
    variance = _variance(hits, tokens, share)
    effective: float = len(hits)
    if variance > 0:
        effective = min(n, share * (1 - share) / variance * _narrower(len(hits) - 1) ** 2)
    return Estimate(share, wilson(share * effective, effective, COVERAGE))


def _narrower(freedom: int) -> float:
    """How much narrower the normal interval is than Student's."""
    probability = (1 + COVERAGE) / 2
    return NormalDist().inv_cdf(probability) / student_quantile(probability, freedom)


def _variance(sums: Sequence[float], tokens: Sequence[int], mean: float) -> float:
    """Of the mean over all tokens: the residuals of passages, squared, by a sample of len(sums)."""
    m = len(sums)
    residuals = math.fsum((total - mean * count) ** 2 for total, count in zip(sums, tokens, strict=True))
    return m / (m - 1) * residuals / sum(tokens) ** 2


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's distribution by its expansion around the normal one (Abramowitz and Stegun, 26.7.5).

    With 4 degrees of `freedom` or more it is within 0.01 for 97.5 %.
    """
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
