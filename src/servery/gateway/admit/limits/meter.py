"""What is limited, in whole numbers, so that every backend counts alike and money is exact.

A rate is a bucket that fills by what is taken and leaks as time goes: with a limit of 600 per minute and a burst of 6 s it
holds 60 and leaks 10 a second. Whatever the interval, what was taken in it and not given back is at most the bucket and
what leaked meanwhile: burst + rate x time. (The leaky bucket as a meter; GCRA is the same said in times, ITU-T I.371.)

A budget counts what is spent in a calendar day or month of UTC, and begins anew at its midnight. A request belongs to the
day in which it was admitted. Concurrency counts the leases that are neither settled nor expired.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from servery.config.types import Limits

# A bucket counts in units so fine that what leaks in a millisecond is whole: a token is 60,000 of them, because a rate of
# one per minute leaks one unit per millisecond.
UNIT = 60_000


class Measure(enum.Enum):
    """What is counted. The values are what clients and metrics read."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENCY = "concurrency"
    DAY = "dollars_per_day"
    MONTH = "dollars_per_month"

    @property
    def is_rate(self) -> bool:
        """Whether it is a bucket."""
        return self in (Measure.REQUESTS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS)

    @property
    def is_budget(self) -> bool:
        """Whether it is money."""
        return self in (Measure.DAY, Measure.MONTH)


class Cost(NamedTuple):
    """What a request takes, or took. Money is micro-dollars."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    microusd: int = 0


# Which part of a cost a measure counts; a lease is one of `CONCURRENCY`.
_PART = {
    Measure.REQUESTS: 0,
    Measure.INPUT_TOKENS: 1,
    Measure.OUTPUT_TOKENS: 2,
    Measure.DAY: 3,
    Measure.MONTH: 3,
}


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit of one scope: the key, the owner or the model of that `name`.

    `limit` is as it was configured. `capacity` is the most that may be taken at a time, `rate` what leaks in a
    millisecond, both in units for rates; for the others the capacity is the limit, and nothing leaks.
    """

    scope: str
    name: str
    measure: Measure
    limit: int
    capacity: int
    rate: int

    def amount(self, cost: Cost) -> int:
        """What a cost is on this meter, in its units."""
        if self.measure is Measure.CONCURRENCY:
            return 1
        return cost[_PART[self.measure]] * (UNIT if self.rate else 1)

    @property
    def part(self) -> int:
        """Which part of a cost it counts."""
        return _PART[self.measure]

    def wait_ms(self, used: int, amount: int) -> int | None:
        """How long until a bucket that holds `used` takes `amount`; None: never, because it is smaller."""
        if amount > self.capacity:
            return None
        return max(0, -(-(used + amount - self.capacity) // self.rate))

    def left(self, used: int) -> int:
        """How much may still be taken, in requests, tokens, leases or micro-dollars."""
        return max(0, self.capacity - used) // (UNIT if self.rate else 1)


def meters(scope: str, name: str, limits: Limits) -> list[Meter]:
    """The meters of a scope with these limits."""
    rates = (
        (Measure.REQUESTS, limits.requests_per_minute),
        (Measure.INPUT_TOKENS, limits.input_tokens_per_minute),
        (Measure.OUTPUT_TOKENS, limits.output_tokens_per_minute),
    )
    others = (
        (Measure.CONCURRENCY, limits.concurrency),
        (Measure.DAY, limits.microusd_per_day),
        (Measure.MONTH, limits.microusd_per_month),
    )
    burst_ms = round(1000 * limits.burst_s)
    return [
        *(
            Meter(scope, name, measure, limit, max(UNIT, limit * burst_ms), limit)
            for measure, limit in rates
            if limit is not None
        ),
        *(Meter(scope, name, measure, limit, limit, 0) for measure, limit in others if limit is not None),
    ]


class Plan:
    """The meters that a request is counted on, all of them or none. Made once for all requests of a kind; `==` is `is`."""

    __slots__ = ("meters",)

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.meters = tuple(meters)

    def short(self, cost: Cost, used: Sequence[int]) -> list[tuple[Meter, int]]:
        """The meters that cannot take a cost, with what they hold; `used` is of each meter in order."""
        return [
            (meter, held)
            for meter, held in zip(self.meters, used, strict=True)
            if (amount := meter.amount(cost)) and held + amount > meter.capacity
        ]


class Lease(msgspec.Struct, eq=False, weakref=True):
    """What one request has reserved, until it is settled; `windows` are the day and the month in which that was."""

    keeper: "LimitStore"
    plan: Plan
    cost: Cost
    id: str | int
    expires_ms: int
    windows: tuple[int, int]
    is_over: bool = False

    def settle(self, used: Cost) -> None:
        """Give back what was not used, or take what was used besides. Once; waits for nothing."""
        if not self.is_over:
            self.is_over = True
            self.keeper.settle(self, used)


class Verdict(msgspec.Struct, frozen=True):
    """Whether a request is admitted: then it has a lease. `used` is what each meter of the plan holds now.

    `at_s` is Unix time by the store's clock. `is_local` if each gateway counts by itself, though it should not. Of a
    refusal, `reserved` is how much of what each budget holds is not spent yet.
    """

    lease: Lease | None
    used: Sequence[int]
    at_s: float
    is_local: bool = False
    reserved: Sequence[int] = ()


class LimitStore(Protocol):
    """Who counts.

    What every store keeps, whatever happens: a meter never holds more after a reservation than its capacity, of which a
    request that takes nothing of it is none; a request is counted on all meters of its plan or on none; what was reserved is settled or given back, once. A lease that is not
    settled in time (its gateway has died) keeps what it reserved, but for its place among the concurrent ones.
    """

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        """Reserve the cost on all meters, or on none."""
        ...

    def settle(self, lease: Lease, used: Cost) -> None:
        """Count `used` instead of what was reserved; for `Lease.settle` alone."""

    async def close(self) -> None:
        """Let go of everything."""
        ...


def day_of(at_s: int) -> int:
    """The day of UTC, counted from 1970-01-01."""
    return at_s // 86_400


def month_of(day: int) -> int:
    """The month of a day, counted from January of the year 0 (days to civil dates: H. Hinnant, 2013)."""
    shifted = day + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    return 12 * (400 * era + year) + month_from_march + 2


def month_begins(month: int) -> int:
    """The first day of a month, counted from 1970-01-01."""
    year, since_march = divmod(month - 2, 12)
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * since_march + 2) // 5
    return era * 146_097 + 365 * year_of_era + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
