"""Limits counted in this process."""

import math
import time
from collections.abc import Callable, Sequence

from servery.gateway.admit.limits.meter import (
    UNIT,
    Cost,
    Lease,
    Measure,
    Meter,
    Plan,
    Verdict,
    day_of,
    month_of,
)

# A clock that goes back by more than this is believed, else a bucket waits until it is where it was.
_SETBACK_MS = 60_000
_MOST_PLANS = 100_000
_DAY_S = 86_400


class _Bucket:
    """What was taken at a rate, and not leaked until `at_ms`."""

    __slots__ = ("at_ms", "used")

    def __init__(self, now_ms: int) -> None:
        self.used = 0
        self.at_ms = now_ms


class _Purse:
    """What is spent in a window, the day or the month of that number; `reserved` of it by leases under way."""

    __slots__ = ("reserved", "used", "window")

    def __init__(self) -> None:
        self.window = 0
        self.used = 0
        self.reserved = 0

    def turn(self, window: int) -> None:
        """A later one has begun. Never back: a clock that is set back spends no money twice."""
        self.window = window
        self.used = 0
        self.reserved = 0


class _Places:
    """The leases under way, `used` of them, each with the time at which it expires."""

    __slots__ = ("leases", "next_ms", "used")

    def __init__(self) -> None:
        self.leases: dict[int | str, int] = {}
        self.next_ms: float = math.inf
        self.used = 0

    def expire(self, now_ms: int) -> None:
        """Forget the leases whose time is over."""
        self.leases = {each: expires_ms for each, expires_ms in self.leases.items() if expires_ms > now_ms}
        self.next_ms = min(self.leases.values(), default=math.inf)
        self.used = len(self.leases)

    def add(self, lease_id: int | str, expires_ms: int) -> None:
        self.leases[lease_id] = expires_ms
        self.used += 1
        self.next_ms = min(self.next_ms, expires_ms)

    def remove(self, lease_id: int | str) -> None:
        if self.leases.pop(lease_id, None) is not None:
            self.used -= 1


class _Bound:
    """A plan with what is counted for it; tuples, because this is walked for every request."""

    __slots__ = ("buckets", "holders", "places", "purses")

    def __init__(self, meters: Sequence[Meter], holders: Sequence["_Bucket | _Purse | _Places"]) -> None:
        pairs = list(zip(meters, holders, strict=True))
        self.holders = tuple(holders)
        self.buckets = tuple(
            (holder, meter.rate, meter.capacity, meter.part) for meter, holder in pairs if isinstance(holder, _Bucket)
        )
        self.places = tuple((holder, meter.capacity) for meter, holder in pairs if isinstance(holder, _Places))
        self.purses = tuple(
            (holder, meter.measure is Measure.MONTH, meter.capacity)
            for meter, holder in pairs
            if isinstance(holder, _Purse)
        )


class MemoryLimits:
    """A `LimitStore` of one process. `clock` is monotonic, `wall` Unix time; both in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._holders: dict[tuple[str, str, Measure], _Bucket | _Purse | _Places] = {}
        self._bound: dict[Plan, _Bound] = {}
        self._day_begins_s = -_DAY_S
        self._day_and_month = 0, 0
        self._ids = 0

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        """Reserve the cost on all meters, or on none; never waits."""
        now_ms, wall_s = int(1000 * self._clock()), self._wall()
        bound = self._bound.get(plan) or self._bind(plan, now_ms)
        windows = self._windows(int(wall_s))
        if not _fits(bound, cost, now_ms, windows):
            held = [each.used for each in bound.holders]
            return Verdict(None, held, wall_s, reserved=_reserved(bound))
        self._ids = lease_id = self._ids + 1
        expires_ms, microusd = now_ms + lease_ms, cost.microusd
        for bucket, _, _, part in bound.buckets:
            bucket.used += cost[part] * UNIT
        for places, _ in bound.places:
            places.add(lease_id, expires_ms)
        for purse, _, _ in bound.purses:
            purse.used += microusd
            purse.reserved += microusd
        held = [each.used for each in bound.holders]
        return Verdict(Lease(self, plan, cost, lease_id, expires_ms, windows), held, wall_s)

    def settle(self, lease: Lease, used: Cost) -> None:
        """Count `used` instead of what was reserved; a lease that has expired keeps that."""
        now_ms = int(1000 * self._clock())
        bound = self._bound.get(lease.plan) or self._bind(lease.plan, now_ms)
        reserved, windows, is_late = lease.cost, lease.windows, lease.expires_ms <= now_ms
        more_microusd = 0 if is_late else used.microusd - reserved.microusd
        for places, _ in bound.places:
            places.remove(lease.id)
        for purse, is_month, _ in bound.purses:
            if purse.window == windows[is_month]:
                purse.reserved -= reserved.microusd
                purse.used += more_microusd
        if is_late:
            return
        _leak(bound, now_ms)
        for bucket, _, _, part in bound.buckets:
            less = (reserved[part] - used[part]) * UNIT
            bucket.used = bucket.used - less if bucket.used > less else 0

    async def close(self) -> None:
        """There is nothing to let go of."""

    def spend(self, scope: str, name: str, measure: Measure, microusd: int) -> None:
        """Count money of the window of now, a day's or a month's, that was spent before this process began."""
        purse = self._holder(Meter(scope, name, measure, 0, 0, 0), 0)
        if isinstance(purse, _Purse):
            window = self._windows(int(self._wall()))[measure is Measure.MONTH]
            if purse.window < window:
                purse.turn(window)
            purse.used += microusd

    def spent(self, scope: str, name: str) -> tuple[int, int]:
        """Micro-dollars of this day and this month, reserved ones included; 0 of what has no budget."""
        windows = self._windows(int(self._wall()))
        purses = [self._holders.get((scope, name, measure)) for measure in (Measure.DAY, Measure.MONTH)]
        day, month = (
            each.used if isinstance(each, _Purse) and each.window == window else 0
            for each, window in zip(purses, windows, strict=True)
        )
        return day, month

    def _windows(self, at_s: int) -> tuple[int, int]:
        if self._day_begins_s <= at_s < self._day_begins_s + _DAY_S:
            return self._day_and_month
        day = day_of(at_s)
        self._day_begins_s, self._day_and_month = day * _DAY_S, (day, month_of(day))
        return self._day_and_month

    def _bind(self, plan: Plan, now_ms: int) -> _Bound:
        if len(self._bound) >= _MOST_PLANS:  # plans of earlier configurations
            self._bound.clear()
        bound = _Bound(plan.meters, [self._holder(meter, now_ms) for meter in plan.meters])
        self._bound[plan] = bound
        return bound

    def _holder(self, meter: Meter, now_ms: int) -> "_Bucket | _Purse | _Places":
        key = meter.scope, meter.name, meter.measure
        found = self._holders.get(key)
        if found is None:
            found = _Bucket(now_ms) if meter.rate else _Purse() if meter.measure.is_budget else _Places()
            self._holders[key] = found
        return found


def _fits(bound: _Bound, cost: Cost, now_ms: int, windows: tuple[int, int]) -> bool:
    """Whether all meters take it; brings all of them to the time of now."""
    fits = True
    _leak(bound, now_ms)
    for bucket, _, capacity, part in bound.buckets:
        amount = cost[part] * UNIT
        if amount and bucket.used + amount > capacity:
            fits = False
    for places, most in bound.places:
        if places.next_ms <= now_ms:
            places.expire(now_ms)
        if places.used >= most:
            fits = False
    for purse, is_month, most in bound.purses:
        if purse.window < windows[is_month]:
            purse.turn(windows[is_month])
        if cost.microusd and purse.used + cost.microusd > most:
            fits = False
    return fits


def _leak(bound: _Bound, now_ms: int) -> None:
    """Let all buckets leak until now; what leaks in a millisecond is whole, so it is the same however often that is done."""
    for bucket, rate, _, _ in bound.buckets:
        elapsed_ms = now_ms - bucket.at_ms
        if elapsed_ms > 0:
            leaked = elapsed_ms * rate
            bucket.used = bucket.used - leaked if bucket.used > leaked else 0
            bucket.at_ms = now_ms
        elif elapsed_ms < -_SETBACK_MS:
            bucket.at_ms = now_ms


def _reserved(bound: _Bound) -> list[int]:
    return [each.reserved if isinstance(each, _Purse) else 0 for each in bound.holders]
