"""Counters and histograms that cost next to nothing to move: one thread moves them, and Prometheus reads what they hold.

The client library's own take a lock and check their arguments with every step, 1 to 3 µs each, a dozen times a request.
These have its words (`labels`, `inc`, `observe`) and are collected by its registry.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class Tally:
    """One number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add; raises `ValueError` for less than nothing."""
        if amount < 0:
            raise ValueError(f"a counter cannot go down by {-amount:g}")
        self.value += amount


class Counter:
    """Tallies by their labels, `name` without `_total`."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._tallies: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The tally of these labels."""
        found = self._tallies.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            found = self._tallies[values] = Tally()
        return found

    def read(self) -> dict[tuple[str, ...], float]:
        """What each holds, by its labels."""
        return {values: tally.value for values, tally in self._tallies.items()}

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, tally in self._tallies.items():
            family.add_metric(values, tally.value)
        yield family


class Spread:
    """How often values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take a value in; a bucket's bound belongs to it."""
        self.total += value
        self.counts[bisect_left(self.bounds, value)] += 1


class Histogram:
    """Spreads by their labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """`buckets` are their upper bounds, in order, without the infinite one."""
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = buckets
        self._names = [*map(floatToGoString, buckets), "+Inf"]
        self._spreads: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The spread of these labels."""
        found = self._spreads.get(values)
        if found is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            found = self._spreads[values] = Spread(self._bounds)
        return found

    def collect(self) -> Iterable[Metric]:
        """All of them, buckets cumulated as Prometheus has them."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, spread in self._spreads.items():
            buckets = list(zip(self._names, map(float, accumulate(spread.counts)), strict=True))
            family.add_metric(values, buckets, spread.total)
        yield family
