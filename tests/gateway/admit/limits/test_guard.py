"""What is done while the store of limits is away, with a store and pauses that the test turns."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from servery.config.types import Limits
from servery.gateway.admit.limits.guard import GuardedLimits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, LimitStore, Plan, Verdict
from servery.gateway.admit.limits.shared import StoreDown
from servery.wire.errors import ApiError
from tests.gateway.admit.limits.backends import Clock, plan_of

PLAN = plan_of(("key", "a", Limits(requests_per_minute=100)))
COST = Cost(1, 0, 0, 0)


class Store(MemoryLimits):
    """A store that is away when the test says so; it notes who asks it."""

    def __init__(self) -> None:
        super().__init__(Clock(), Clock())
        self.is_away = False
        self.asked = 0

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreDown("away")
        return await super().reserve(plan, cost, lease_ms)


class Pauses:
    """Pauses that end when the test says so."""

    def __init__(self) -> None:
        self.lengths_s: list[float] = []
        self._turns = asyncio.Semaphore(0)

    async def __call__(self, length_s: float) -> None:
        self.lengths_s.append(length_s)
        await self._turns.acquire()

    async def end(self) -> None:
        """Let one pause end, and what follows it happen."""
        self._turns.release()
        for _ in range(5):
            await asyncio.sleep(0)


def run(story: Callable[[Store, Pauses], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story(Store(), Pauses())

    asyncio.run(whole())


async def burst(store: LimitStore) -> list[str]:
    """Who answered each of many requests that come at once."""
    return await asyncio.gather(*(_answered(store) for _ in range(20)))


async def _answered(store: LimitStore) -> str:
    try:
        return "local" if (await store.reserve(PLAN, COST, 60_000)).is_local else "shared"
    except ApiError:
        return "refused"


@pytest.mark.parametrize("meanwhile", ["refused", "local"])
def test_every_request_of_the_first_burst_after_it_is_back_is_counted_there(meanwhile: str) -> None:
    async def story(shared: Store, pauses: Pauses) -> None:
        store = GuardedLimits(shared, Store() if meanwhile == "local" else None, pause=pauses)
        shared.is_away = True
        assert await burst(store) == [meanwhile] * 20
        shared.is_away = False
        assert await burst(store) == [meanwhile] * 20  # nobody has asked it again yet
        await pauses.end()
        assert await burst(store) == ["shared"] * 20
        await store.close()

    run(story)


def test_while_it_is_away_it_is_asked_once_a_second_by_no_request() -> None:
    async def story(shared: Store, pauses: Pauses) -> None:
        store = GuardedLimits(shared, None, pause=pauses)
        shared.is_away = True
        await burst(store)
        asked = shared.asked
        for turn in range(1, 4):
            await pauses.end()
            await burst(store)
            assert (shared.asked, pauses.lengths_s) == (asked + turn, [1.0] * (turn + 1))
        await store.close()
        assert len(asyncio.all_tasks()) == 1

    run(story)
