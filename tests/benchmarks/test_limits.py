"""The benchmark of limits counts what it says, and no refusals."""

import asyncio

import pytest

from benchmarks import limits
from servery.config.types import Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, Plan, meters


def test_every_request_is_reserved_and_settled_on_all_meters() -> None:
    store, plan = MemoryLimits(), limits.plan(("key", "owner", "model"))
    assert len(plan.meters) == 18

    async def story() -> list[int]:
        assert len(await limits.cpu_us(store, plan, 10, 3)) == 3
        return list((await store.reserve(plan, Cost(), 1)).used)

    used = asyncio.run(story())
    assert [used[at] for at in (3, 4, 5)] == [1, 30 * 17, 30 * 17]


def test_refusals_are_no_figures() -> None:
    tight = Plan(meters("key", "a", Limits(concurrency=1, microusd_per_day=1)))
    with pytest.raises(SystemExit, match="a reservation was refused"):
        asyncio.run(limits.one(MemoryLimits(), tight))


def test_what_is_measured_has_both_stores_where_there_is_a_redis(redis_url: str) -> None:
    figures = asyncio.run(limits.measure(64, 1))
    assert sorted(figures) == ["goal_cpu_us", "memory_cpu_us", "redis"]
    assert figures["redis"]["requests_per_s"] > 0
