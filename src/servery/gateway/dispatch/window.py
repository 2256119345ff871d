"""How often two things happened lately: counts over a sliding window, in a ring of buckets."""

import msgspec


class Counts(msgspec.Struct, frozen=True, gc=False):
    """How often each of the two happened within the window."""

    hits: int = 0
    misses: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.hits + self.misses

    @property
    def miss_rate(self) -> float:
        """The share of misses; 0 when nothing happened."""
        return self.misses / self.total if self.total else 0.0


class Window:
    """Counts of the last `length_s` seconds, forgotten bucket by bucket. Time is passed in and never runs backwards.

    What happened is remembered for at least `length_s * (1 - 1 / buckets)` and less than `length_s`.
    """

    def __init__(self, length_s: float, buckets: int = 10) -> None:
        self._bucket_s = length_s / buckets
        self._buckets = buckets
        self._hits = [0] * buckets
        self._misses = [0] * buckets
        self._at = 0  # number of the newest bucket since the beginning of time

    def hit(self, now: float) -> None:
        """Count one of the first kind."""
        at = int(now / self._bucket_s)
        if at > self._at:
            self._turn(now)
        self._hits[self._at % self._buckets] += 1

    def miss(self, now: float) -> None:
        """Count one of the second kind."""
        self._turn(now)
        self._misses[self._at % len(self._misses)] += 1

    def counts(self, now: float) -> Counts:
        """What happened lately."""
        self._turn(now)
        return Counts(sum(self._hits), sum(self._misses))

    def clear(self) -> None:
        """Forget everything."""
        self._hits = [0] * len(self._hits)
        self._misses = [0] * len(self._misses)

    def _turn(self, now: float) -> None:
        """Forget the buckets that time has left behind."""
        at = int(now / self._bucket_s)
        if at <= self._at:
            return
        for number in range(max(self._at + 1, at - len(self._hits) + 1), at + 1):
            self._hits[number % len(self._hits)] = self._misses[number % len(self._misses)] = 0
        self._at = at
