"""When a deployment that is predicted to be too slow even by itself is tried again: what it can do now shows only then.

It is tried with one request while it has no other. Where that is in time the next one follows at once, where it is late
the next one is twice as long after it as that one was.
"""

_SHORTEST_S = 1.0
_LONGEST_S = 60.0


class Trial:
    """One deployment's. Times are seconds of one clock."""

    __slots__ = ("_due_s", "_pause_s")

    def __init__(self) -> None:
        self._pause_s = self._due_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether it may be tried now."""
        return now_s >= self._due_s

    def learn(self, now_s: float, *, is_in_time: bool) -> None:
        """That request was answered in time, or late."""
        if is_in_time:
            self._pause_s = self._due_s = 0.0
        else:
            self._pause_s = min(max(2 * self._pause_s, _SHORTEST_S), _LONGEST_S)
            self._due_s = now_s + self._pause_s
