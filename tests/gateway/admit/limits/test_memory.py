"""Limits in memory: what is particular to it; the contract of all stores is in `test_contract.py`."""

import asyncio

from servery.config.types import Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, Measure, Meter, meters
from tests.gateway.admit.limits.backends import Clock, plan_of


def test_what_was_spent_before_the_process_began_counts() -> None:
    async def story() -> None:
        clock = Clock()
        store, limits = MemoryLimits(clock, clock), Limits(microusd_per_day=100, microusd_per_month=100)
        store.spend("key", "a", Measure.DAY, 60)
        store.spend("key", "a", Measure.MONTH, 30)
        verdict = await store.reserve(plan_of(("key", "a", limits)), Cost(microusd=41), 1000)
        assert (verdict.lease, verdict.used) == (None, [60, 30])
        assert (await store.reserve(plan_of(("key", "a", limits)), Cost(microusd=40), 1000)).lease is not None

    asyncio.run(story())


def test_a_clock_that_is_set_back_stops_a_bucket_for_a_minute_at_most() -> None:
    async def story() -> None:
        clock = Clock()
        store, plan = MemoryLimits(clock, clock), plan_of(("key", "a", Limits(requests_per_minute=60)))
        for _ in range(60):
            assert (await store.reserve(plan, Cost(requests=1), 1000)).lease is not None
        clock.now_ms -= 59_000
        assert (await store.reserve(plan, Cost(requests=1), 1000)).lease is None
        clock.now_ms -= 3_600_000
        assert (await store.reserve(plan, Cost(requests=1), 1000)).lease is None
        clock.now_ms += 1000
        assert (await store.reserve(plan, Cost(requests=1), 1000)).lease is not None

    asyncio.run(story())


def test_a_budget_of_a_later_day_is_not_reopened_by_a_clock_set_back() -> None:
    async def story() -> None:
        clock = Clock()
        store, plan = MemoryLimits(clock, clock), plan_of(("key", "a", Limits(microusd_per_day=5)))
        clock.now_ms += 200_000
        assert (await store.reserve(plan, Cost(microusd=5), 1000)).lease is not None
        clock.now_ms -= 200_000
        assert (await store.reserve(plan, Cost(microusd=1), 1000)).lease is None

    asyncio.run(story())


def test_limits_that_change_keep_what_was_taken() -> None:
    async def story() -> None:
        clock = Clock()
        store = MemoryLimits(clock, clock)
        before, after = Limits(requests_per_minute=3), Limits(requests_per_minute=5)
        for _ in range(3):
            assert (await store.reserve(plan_of(("key", "a", before)), Cost(requests=1), 1000)).lease is not None
        admitted = [
            (await store.reserve(plan_of(("key", "a", after)), Cost(requests=1), 1000)).lease is not None
            for _ in range(3)
        ]
        assert admitted == [True, True, False]

    asyncio.run(story())


def test_a_meter_of_money_holds_micro_dollars() -> None:
    assert meters("owner", "o", Limits(microusd_per_day=7)) == [Meter("owner", "o", Measure.DAY, 7, 7, 0)]
