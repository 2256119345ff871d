"""The breaker of a deployment: after failures nobody is sent there for a while, and then one, to see.

Only what says that the deployment is broken counts (see `UpstreamFailure.counts_against_health`), and it counts when an
answer ends, so that one which is cut short in the middle is no success.
"""

import enum
from dataclasses import dataclass

from servery.gateway.dispatch.window import Window


class State(enum.Enum):
    """CLOSED lets everything through, OPEN nothing, HALF_OPEN the one request that finds out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(enum.Enum):
    """What moves the breaker."""

    SUCCESS = "success"
    TRIP = "trip"  # too many failures, or an outlier among its peers
    PROBE = "probe"  # its time is up, and a request is let through
    PROBE_LOST = "probe_lost"  # that request ended without telling anything: its client had gone


# What every event does in every state; a pair that is not here cannot happen.
TRANSITIONS = {
    (State.CLOSED, Event.SUCCESS): State.CLOSED,
    (State.CLOSED, Event.TRIP): State.OPEN,
    (State.OPEN, Event.SUCCESS): State.OPEN,  # of an answer that began before
    (State.OPEN, Event.TRIP): State.OPEN,
    (State.OPEN, Event.PROBE): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Event.TRIP): State.OPEN,
    (State.HALF_OPEN, Event.PROBE_LOST): State.OPEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """It opens when of at least `least_volume` answers in `window_s` the share `failure_rate` failed, or `consecutive`.

    It stays open for `open_s`, twice as long after every probe that failed, at most `most_open_s`.
    """

    window_s: float = 30.0
    least_volume: int = 10
    failure_rate: float = 0.5
    consecutive: int = 5
    open_s: float = 5.0
    most_open_s: float = 60.0


class Breaker:
    """One deployment's. Time is passed in, in seconds of any clock that does not run backwards."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        policy = policy or BreakerPolicy()
        self.policy = policy
        self.state = State.CLOSED
        self.opened = 0  # how often it has opened, for the metrics
        self._window = Window(policy.window_s)
        self._in_a_row = 0
        self._trips_in_a_row = 0
        self._open_until_s = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request would be let through; asks only."""
        return self.state is State.CLOSED or (self.state is State.OPEN and now >= self._open_until_s)

    def retry_after_s(self, now: float) -> float:
        """How long until the next request might be let through; 0 if it is now."""
        return 0.0 if self.admits(now) else max(0.0, self._open_until_s - now)

    def enter(self, now: float) -> bool:
        """Let a request through, which `admits` must allow; whether it is the probe."""
        if self.state is State.CLOSED:
            return False
        if not self.admits(now):
            raise ValueError(f"the breaker is {self.state.value} and lets nothing through")
        self._move(Event.PROBE)
        return True

    def succeed(self, now: float, *, is_probe: bool) -> None:
        """An answer was whole. Only the probe's closes a breaker that has opened."""
        self._window.hit(now)
        self._in_a_row = 0
        if is_probe and self.state is State.HALF_OPEN:
            self._trips_in_a_row = 0
            self._window.clear()
            self._move(Event.SUCCESS)

    def fail(self, now: float, *, is_probe: bool) -> None:
        """An answer failed in a way that counts."""
        self._window.miss(now)
        self._in_a_row += 1
        if is_probe:
            if self.state is State.HALF_OPEN:
                self._open(now)
        elif self.state is State.CLOSED and self._has_enough(now):
            self._open(now)

    def leave(self, *, is_probe: bool) -> None:
        """An answer ended without telling whether the deployment is well. The next request is the probe then."""
        if is_probe and self.state is State.HALF_OPEN:
            self._move(Event.PROBE_LOST)

    def eject(self, now: float) -> None:
        """Open although the deployment's own figures do not say so: its peers do."""
        if self.state is State.CLOSED:
            self._open(now)

    def failure_rate(self, now: float) -> tuple[float, int]:
        """The share of answers that failed lately, and of how many."""
        counts = self._window.counts(now)
        return counts.miss_rate, counts.total

    def _has_enough(self, now: float) -> bool:
        counts, policy = self._window.counts(now), self.policy
        is_many = counts.total >= policy.least_volume and counts.miss_rate >= policy.failure_rate
        return is_many or self._in_a_row >= policy.consecutive

    def _open(self, now: float) -> None:
        policy = self.policy
        self._open_until_s = now + min(policy.most_open_s, policy.open_s * 2.0 ** min(self._trips_in_a_row, 30))
        self._trips_in_a_row += 1
        self._in_a_row = 0
        self.opened += 1
        self._move(Event.TRIP)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]
