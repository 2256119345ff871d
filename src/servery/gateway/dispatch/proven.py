"""How many requests at a time a deployment has been seen to answer in time, and so how many more it may be tried with.

A prediction from nothing, or from a few answers, says nothing of a load that nobody has seen: a whole burst would go where
it is cheapest, and be late. So a deployment is tried with twice the load that it has borne, and no more, as long as another
one would keep the SLO, too (the slow start of TCP: V. Jacobson, "Congestion avoidance and control", 1988).
"""

_FIRST = 4


class Proven:
    """One deployment's."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        self._most = _FIRST // 2

    @property
    def bound(self) -> int:
        """How many requests at a time it may be tried with."""
        return 2 * self._most

    def doublings(self, requests: int) -> int:
        """How often the bound has to be doubled for so many requests at a time."""
        return ((requests - 1) // self.bound).bit_length()

    def learn(self, requests: int, *, is_in_time: bool) -> None:
        """One of so many requests at a time was answered in time, or late: then it has not borne as many."""
        if is_in_time:
            self._most = max(self._most, requests)
        else:
            self._most = max(_FIRST // 2, min(self._most, requests - 1))
