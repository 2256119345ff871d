"""Lengths in tokens: one, evenly drawn from a span, or log-normal as in recorded traffic."""

import math
import random
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from servery.bench.span import Span

_Z99 = NormalDist().inv_cdf(0.99)


class Lengths(Protocol):
    """A distribution of lengths."""

    def draw(self, source: random.Random) -> int:
        """One length, at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal by its mean and its 99th percentile, both in tokens, which is how traces are described."""

    mean: float
    p99: float

    def draw(self, source: random.Random) -> int:
        """One length, at least 1."""
        return max(1, round(source.lognormvariate(self.mu, self.sigma)))

    @property
    def sigma(self) -> float:
        """Of the logarithm: the smaller root of s^2/2 - z s + ln(p99/mean) = 0."""
        return _Z99 - math.sqrt(_Z99**2 - 2 * math.log(self.p99 / self.mean))

    @property
    def mu(self) -> float:
        """Of the logarithm."""
        return math.log(self.mean) - self.sigma**2 / 2

    @classmethod
    def by_median(cls, median: float, mean: float) -> "LogNormal":
        """The same distribution by its median and its mean."""
        sigma = math.sqrt(2 * math.log(mean / median))
        return cls(mean, median * math.exp(_Z99 * sigma))

    def __str__(self) -> str:
        return f"lognormal:{self.mean:g},{self.p99:g}"


def parse_lengths(text: str) -> Lengths:
    """Read `200`, `50:150` or `lognormal:MEAN,P99`. Raises `ValueError` with what was given and the rule."""
    name, _, given = text.partition(":")
    if name != "lognormal":
        return Span.parse(text)
    try:
        mean, p99 = (float(number) for number in given.split(","))
    except ValueError:
        mean = p99 = math.nan
    # Above exp(z^2/2) times its mean no log-normal distribution has its 99th percentile.
    if not 1 <= mean < p99 < mean * math.exp(_Z99**2 / 2):
        raise ValueError(f"{text!r} is no log-normal length; write its mean and its 99th percentile: lognormal:200,600")
    return LogNormal(mean, p99)
