"""Times that were measured lately, and what share of them was shorter than what."""

from collections import deque

_KEPT = 200
_FEWEST = 20


class RecentTimes:
    """The last 200 times, in seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_KEPT)

    def add(self, seconds: float) -> None:
        """One more."""
        self._times.append(seconds)

    def quantile(self, share: float) -> float | None:
        """The time that `share` of them does not exceed (nearest rank); None while fewer than 20 tell nothing of it."""
        if len(self._times) < _FEWEST:
            return None
        ranked = sorted(self._times)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
