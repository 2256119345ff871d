"""Limits in a real Redis: what is particular to it. The contract of all stores is in `test_contract.py`."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from servery.config.secret import Secret
from servery.config.types import Limits, LimitsConfig, OnFailure
from servery.gateway.admit.limits.guard import GuardedLimits
from servery.gateway.admit.limits.meter import Cost, LimitStore
from servery.gateway.admit.limits.shared import SharedLimits, StoreDown
from servery.gateway.admit.limits.stores import limit_store
from servery.telemetry.metrics import Metrics
from servery.wire.errors import ApiError
from tests.conftest import redis_server
from tests.gateway.admit.limits.backends import Clock, plan_of

PLAN = plan_of(("key", "a", Limits(output_tokens_per_minute=100, concurrency=5, microusd_per_month=10**6)))
COST = Cost(1, 10, 40, 7)


class Figures:
    """Figures that say when the store is back."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.is_back = asyncio.Event()

    def tell_store(self, *, is_up: bool) -> None:
        self._metrics.gateway.tell_store(is_up=is_up)
        if is_up:
            self.is_back.set()


@contextlib.asynccontextmanager
async def shared(url: str, deadline_s: float = 5.0, clock: Clock | None = None) -> AsyncIterator[SharedLimits]:
    store = SharedLimits(url, deadline_s, None if clock is None else lambda: clock.now_ms)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def own_redis(require_program: Callable[[str], str], tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A Redis for one test, to be stopped and killed."""
    with redis_server(require_program("redis-server"), tmp_path / "redis.sock") as (url, process):
        yield url, process


def test_gateways_count_together_by_the_clock_of_redis(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as first, shared(redis_url) as second:
            await first.client.flushall()
            before_s = time.time()
            mine = await first.reserve(PLAN, COST, 60_000)
            other = await second.reserve(PLAN, COST, 60_000)
            assert mine.lease is not None
            assert other.lease is not None
            assert (await first.reserve(PLAN, COST, 60_000)).lease is None
            assert before_s - 1 < mine.at_s < time.time() + 1
            other.lease.settle(Cost(1, 10, 0, 7))
            async with shared(redis_url) as third:
                await second.reserve(plan_of(), Cost(), 1)  # behind what was settled
                assert (await third.reserve(PLAN, COST, 60_000)).lease is not None

    asyncio.run(story())


def test_what_a_gateway_held_that_has_died_counts_as_spent_when_its_lease_is_over(redis_url: str) -> None:
    async def story() -> None:
        clock, plan = Clock(), plan_of(("key", "a", Limits(microusd_per_day=10)))
        async with shared(redis_url, clock=clock) as died, shared(redis_url, clock=clock) as other:
            await died.client.flushall()
            await died.reserve(plan, Cost(1, 0, 0, 9), 1000)
            assert (await other.reserve(plan, Cost(1, 0, 0, 5), 1000)).reserved == [9]
            clock.now_ms += 1000
            refused = await other.reserve(plan, Cost(1, 0, 0, 5), 1000)
            assert (refused.used, refused.reserved) == ([9], [0])

    asyncio.run(story())


def test_one_reservation_is_one_command(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as store:
            await store.client.flushall()
            await store.reserve(PLAN, COST, 60_000)  # brings the scripts
            await store.client.config_resetstat()
            lease = (await store.reserve(PLAN, COST, 60_000)).lease
            assert lease is not None
            lease.settle(COST)
            await store.close()
        async with shared(redis_url) as other:
            counts = await other.client.info("commandstats")
            assert counts["cmdstat_evalsha"]["calls"] == 2

    asyncio.run(story())


def test_everything_in_redis_ends_by_itself(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as store:
            await store.client.flushall()
            await store.reserve(PLAN, COST, 60_000)
            names = sorted(await store.client.keys("*"))
            assert [name.rsplit(b":", 1)[0] for name in names] == [
                b"servery:{limits}:held:key", b"servery:{limits}:lease", b"servery:{limits}:places:key",
                b"servery:{limits}:used:key",
            ]  # fmt: skip
            left_ms = [await store.client.pttl(name) for name in names]
            assert [
                0 < each <= most for each, most in zip(left_ms, (60_000, 60_000, 60_000, 40 * 86_400_000), strict=True)
            ] == [True] * 4

    asyncio.run(story())


def test_scripts_come_again_when_redis_has_lost_them(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as store:
            await store.client.flushall()
            assert (await store.reserve(PLAN, COST, 60_000)).lease is not None
            await store.client.script_flush()
            assert [list((await store.reserve(PLAN, COST, 60_000)).used[1:]) for _ in range(2)] == [[2, 14], [2, 14]]

    asyncio.run(story())


def test_who_leaves_while_it_is_reserved_leaves_nothing_behind(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as store:
            await store.client.flushall()
            tasks = [asyncio.create_task(store.reserve(PLAN, COST, 60_000)) for _ in range(2)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            whole = Cost(1, 0, 100, 10**6)
            assert (await store.reserve(PLAN, whole, 60_000)).lease is not None

    asyncio.run(story())


def test_a_redis_that_hangs_costs_one_deadline_and_nothing_is_mixed_up_after(
    own_redis: tuple[str, "subprocess.Popen[bytes]"], caplog: pytest.LogCaptureFixture
) -> None:
    url, process = own_redis
    deadline_s = 1.0

    async def story() -> None:
        metrics, turns = Metrics(), asyncio.Semaphore(0)
        figures = Figures(metrics)
        store = GuardedLimits(SharedLimits(url, deadline_s), None, figures, lambda _: turns.acquire())
        kept = (await store.reserve(PLAN, COST, 60_000)).lease
        assert kept is not None
        os.kill(process.pid, signal.SIGSTOP)
        begun_s = time.monotonic()
        for _ in range(50):
            with pytest.raises(ApiError) as caught:
                await store.reserve(PLAN, COST, 60_000)
            assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (
                503,
                "limits_unavailable",
                1.0,
            )
        assert time.monotonic() - begun_s < 50 * deadline_s / 2
        kept.settle(Cost(1, 10, 5, 1))
        assert "servery_limit_store_up 0.0" in metrics.render().decode()
        os.kill(process.pid, signal.SIGCONT)
        turns.release()
        async with asyncio.timeout(60):
            await figures.is_back.wait()
        assert "servery_limit_store_up 1.0" in metrics.render().decode()
        # 5 that were settled late, 40 now: what was asked of the hung one was given back.
        verdict = await store.reserve(PLAN, COST, 60_000)
        assert (verdict.lease is not None, list(verdict.used[1:])) == (True, [1, 8])
        await store.close()

    asyncio.run(story())
    assert [(record.levelname, record.message.partition(" (")[0]) for record in caplog.records] == [
        ("ERROR", "the store of limits does not answer"),
        ("WARNING", "the store of limits answers again"),
    ]


def test_without_redis_each_gateway_counts_alone_where_that_is_wanted(
    own_redis: tuple[str, "subprocess.Popen[bytes]"], caplog: pytest.LogCaptureFixture
) -> None:
    url, process = own_redis
    process.kill()
    process.wait()

    async def story() -> None:
        store: LimitStore = limit_store(
            LimitsConfig(redis=Secret(url), deadline_s=5.0, on_failure=OnFailure.LOCAL), Metrics().gateway
        )
        verdicts = [await store.reserve(PLAN, COST, 60_000) for _ in range(3)]
        assert [(each.lease is not None, each.is_local) for each in verdicts] == [
            (True, True),
            (True, True),
            (False, True),
        ]
        for verdict in verdicts[:2]:
            assert verdict.lease is not None
            verdict.lease.settle(Cost(1))
        assert (await store.reserve(PLAN, COST, 60_000)).lease is not None
        await store.close()

    asyncio.run(story())
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
        "requests with limits are counted by this process alone"
    ]


def test_a_gateway_that_is_busy_itself_does_not_take_redis_for_slow(redis_url: str) -> None:
    deadline_s = 0.3

    async def busy() -> None:
        """Turns of the loop that take longer than Redis may, as with hundreds of requests at once."""
        for _ in range(2):
            until_s = time.monotonic() + 1.2 * deadline_s
            while time.monotonic() < until_s:
                pass
            await asyncio.sleep(0)

    async def story() -> None:
        async with shared(redis_url, deadline_s) as store:
            verdict, _ = await asyncio.gather(store.reserve(plan_of(), Cost(), 1), busy())
            assert verdict.lease is not None

    asyncio.run(story())


def test_it_lets_go_of_a_connection_that_ends_with_another_error_when_it_is_cancelled() -> None:
    """A server whose Redis was slow at that moment never came to its end."""

    async def story() -> None:
        store, is_asked = SharedLimits("redis://127.0.0.1:9", 0.01), asyncio.Event()

        async def cut(batch: object) -> list[object]:
            is_asked.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise ConnectionError("it was cut") from None
            return []

        store._send = cut  # type: ignore[method-assign, assignment]
        store._deadline_s = 3600  # of the command; of the end it is short
        asking = asyncio.create_task(store.reserve(PLAN, COST, 60_000))
        await is_asked.wait()
        store._deadline_s = 0.01
        async with asyncio.timeout(30):
            await store.close()
            with pytest.raises(StoreDown, match="it was cut"):
                await asking

    asyncio.run(story())


def test_a_wrong_answer_is_no_answer(redis_url: str) -> None:
    async def story() -> None:
        async with shared(redis_url) as store:
            await store.client.flushall()
            await store.client.set("servery:{limits}:used:key:a", "not a hash")
            with pytest.raises(StoreDown, match="WRONGTYPE"):
                await store.reserve(PLAN, COST, 60_000)

    asyncio.run(story())
