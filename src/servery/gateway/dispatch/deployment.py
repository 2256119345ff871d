"""A deployment as it is now: what it has to do, whether it is well, and whether anything is to be sent there."""

import copy
import enum
from collections.abc import Callable
from weakref import WeakSet

import msgspec

from servery.config.types import DeploymentConfig
from servery.config.types import Kind as DeploymentKind
from servery.engine.request import BACKGROUND
from servery.gateway.dispatch.breaker import Breaker, BreakerPolicy, State
from servery.gateway.dispatch.failure_log import FailureLog
from servery.gateway.dispatch.recent import RecentTimes
from servery.gateway.dispatch.slots import QueueFull, Slots
from servery.gateway.dispatch.throttle import Throttle
from servery.gateway.dispatch.turns import Turns
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Upstream


class Standing(enum.Enum):
    """What is to be sent to a deployment, the best first."""

    FREE = 0  # it has a place
    BUSY = 1  # requests would wait for a place
    UNREADY = 2  # it says that it takes none, or its probe does; only if there is nothing better
    AWAY = 3  # its breaker is open, it was throttled, or too many wait: nothing now


class Followers:
    """The turns of models whose requests wait for a change at a deployment; most deployments never have any."""

    __slots__ = ("is_any", "turns")

    def __init__(self) -> None:
        self.is_any = False
        self.turns: WeakSet[Turns] = WeakSet()

    def add(self, turns: Turns) -> None:
        """Let them be woken, as long as they are."""
        self.is_any = True
        self.turns.add(turns)


class Deployment:
    """What is known of one deployment; it outlives configurations that leave its place as it is."""

    def __init__(
        self,
        config: DeploymentConfig,
        upstream: Upstream,
        clock: Callable[[], float],
        policy: BreakerPolicy | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.tier = config.tier.value
        # An engine of this process tells by itself whether it is well and what it takes.
        self.is_own = config.kind is DeploymentKind.EMBEDDED
        self.upstream = upstream
        self.breaker = Breaker(policy)
        self.throttle = Throttle()
        self.slots = Slots(config.max_concurrency, config.max_queue)
        self.ttfts = RecentTimes()
        self.failures = FailureLog(config.name)
        self.followers = Followers()  # who wait for a change here
        self._clock = clock

    def configured(self, config: DeploymentConfig) -> "Deployment":
        """The same place by another configuration: what is known of it is one, what each says of it its own.

        Its bounds are in force only from `enforce` on.
        """
        other = copy.copy(self)
        other.config, other.tier = config, config.tier.value
        return other

    def enforce(self) -> None:
        """Let the bounds of this configuration count from now on, for whoever came by an earlier one, too."""
        self.slots.resize(self.config.max_concurrency, self.config.max_queue)

    @property
    def in_flight(self) -> int:
        """How many requests it has, and how many wait to be sent there."""
        return self.slots.in_flight + self.slots.waiting

    def changed(self) -> None:
        """It has less to do, or is well again: who waits for that looks."""
        for turns in self.followers.turns:
            turns.wake()

    def standing(self) -> Standing:
        """Whether anything is to be sent there now; asks only."""
        now, slots = self._clock(), self.slots
        is_free = slots.is_free
        if not self.breaker.admits(now) or now < self.throttle.until_s or not (is_free or slots.has_room):
            return Standing.AWAY
        if not self.upstream.health().is_ready:
            return Standing.UNREADY
        return Standing.FREE if is_free else Standing.BUSY

    @property
    def is_missed(self) -> bool:
        """Whether it takes no requests, and not because somebody unloaded it."""
        health = self.upstream.health()
        return health.is_wanted and not health.is_ready

    def absence(self) -> UpstreamFailure:
        """Why nothing is to be sent there now, and for how long."""
        now = self._clock()
        if self.throttle.is_on(now):
            wait_s = self.throttle.retry_after_s(now)
            return UpstreamFailure(
                Kind.THROTTLED, f"'{self.name}' asked to be left alone for {wait_s:.1f} s.", retry_after_s=wait_s
            )
        if not self.breaker.admits(now):
            wait_s = self.breaker.retry_after_s(now)
            message = f"'{self.name}' has been failing; it is tried again in {wait_s:.1f} s."
            return UpstreamFailure(Kind.REFUSED, message, retry_after_s=wait_s)
        return self.full()

    def full(self) -> UpstreamFailure:
        """That too many wait already."""
        slots = self.slots
        message = f"'{self.name}' has {slots.in_flight} requests, as many as it may, and {slots.waiting} wait."
        return UpstreamFailure(Kind.OVERLOADED, message, retry_after_s=slots.predicted_wait_s or None)

    def enter_at_once(self) -> "Lease | None":
        """As `enter`, for a deployment elsewhere; None where that would wait or be refused, or it wants nothing now."""
        now, is_closed = self._clock(), self.breaker.state is State.CLOSED
        if self.is_own or now < self.throttle.until_s or not (is_closed or self.breaker.admits(now)):
            return None
        if not self.slots.take_at_once():
            return None
        return Lease(self, self._clock, now, not is_closed and self.breaker.enter(now))

    async def enter(self, priority: int) -> "Lease":
        """Be counted as sent there, once there is a place; raises `UpstreamFailure` if too many wait, or if it went away.

        What is in the background takes no place from others in an engine of this process, where it pauses for them.
        """
        has_place = not (self.is_own and priority >= BACKGROUND)
        if has_place:
            await self._take_place(priority)
        now = self._clock()
        if not self.breaker.admits(now):  # it went away while this one waited, or a probe is under way
            failure = self.absence()
            if has_place:
                self.slots.give()
            raise failure
        return Lease(self, self._clock, now, self.breaker.enter(now), has_place)

    async def _take_place(self, priority: int) -> None:
        try:
            await self.slots.take(priority)
        except QueueFull:
            raise self.full() from None


class Lease(msgspec.Struct, eq=False):
    """One request at a deployment, `since_s`. Exactly one of the three is to be called when it is over, once."""

    deployment: Deployment
    clock: Callable[[], float]
    since_s: float
    is_probe: bool = False
    has_place: bool = True
    is_over: bool = False

    def succeed(self) -> None:
        """The answer was whole, or its error the client's own fault."""
        if self.is_over:
            return
        now, deployment = self.clock(), self.deployment
        self._end(now)
        if deployment.throttle.untold:
            deployment.throttle.succeed()
        deployment.breaker.succeed(now, is_probe=self.is_probe)

    def fail(self, failure: UpstreamFailure) -> None:
        """The answer did not come, or not whole."""
        if self.is_over:
            return
        now, deployment = self.clock(), self.deployment
        self._end(now)
        if deployment.is_own:
            return
        if failure.kind in (Kind.THROTTLED, Kind.OVERLOADED) or failure.retry_after_s is not None:
            deployment.throttle.hold(now, failure.retry_after_s)
        if failure.counts_against_health:
            deployment.breaker.fail(now, is_probe=self.is_probe)
        else:
            deployment.breaker.leave(is_probe=self.is_probe)

    def leave(self) -> None:
        """It was cut short from this side: that tells nothing of the deployment."""
        if not self.is_over:
            self._end(self.clock())
            self.deployment.breaker.leave(is_probe=self.is_probe)

    def _end(self, now: float) -> None:
        self.is_over = True
        if self.has_place:
            self.deployment.slots.give(now - self.since_s)
        if self.deployment.followers.is_any:
            self.deployment.changed()
