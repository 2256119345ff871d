"""The retry budget: retries are a small share of the traffic, so that they cannot become the load that they answer to.

After Finagle's and Envoy's retry budgets: a fixed number of retries per request multiplies the load when a deployment is
overloaded, a share of the traffic adds that share at most.
"""

from servery.gateway.dispatch.window import Window

_WINDOW_S = 10.0


class RetryBudget:
    """Allows `ratio` retries per request of the last ten seconds, and `reserve` besides, for when there is little traffic."""

    def __init__(self, ratio: float, reserve: int = 10) -> None:
        self.ratio = ratio
        self.reserve = reserve
        self.refused = 0  # how often it was spent, for the metrics
        self._window = Window(_WINDOW_S)  # hits are requests, misses retries
        self.count = self._window.hit  # a request has come, now

    def take(self, now: float) -> bool:
        """Whether one more retry is within the budget; if so it is taken."""
        counts = self._window.counts(now)
        if counts.misses >= self.reserve + self.ratio * counts.hits:
            self.refused += 1
            return False
        self._window.miss(now)
        return True
