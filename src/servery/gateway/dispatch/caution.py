"""How much is made of the doubt in predictions: as much as keeps the SLO for the share of requests that it is promised to.

A margin that each single request would need keeps far more of them than were promised, and pays for it: most requests are
nowhere near the limit. So each miss raises the caution and each request that was in time lowers it, in such proportion that
it rests where the promised share is kept (stochastic approximation, Robbins and Monro 1951).
"""

_STEP = 0.2


class Caution:
    """One model's; `value` is the exponent of the margins: 0 trusts the mean, 1 covers the promised share of each request."""

    def __init__(self, attainment: float) -> None:
        """`attainment` is the promised share."""
        self._attainment = attainment
        self._spare = 1.0
        self.value = 1.0

    @property
    def may_miss(self) -> bool:
        """Whether one more request may be late: for each that was, as many as the promised share asks for were in time since."""
        return self._spare >= 1.0

    def learn(self, *, is_in_time: bool) -> None:
        """A request was within the SLO, or not."""
        step = _STEP * (self._attainment - 1.0 if is_in_time else self._attainment)
        self.value = min(max(self.value + step, 0.0), 1.0)
        spare = self._spare + (1.0 - self._attainment if is_in_time else -1.0)
        self._spare = min(max(spare, 0.0), 1.0)
