"""One model's coming and going: states, waiting, keep-alive, draining, failures. Nothing here takes time of its own."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from servery.engine.errors import CannotSleep, EngineDead, LoadError
from servery.telemetry.residency import ModelState, ReleasedBy
from servery.upstream.residence import RETRY_S, Busy, Residence, Stay
from servery.upstream.roster import Roster
from servery.wire.errors import ApiError
from tests.upstream.fake_sleeper import FakeSleeper

LOADED, SLEEPING, UNLOADED = ModelState.LOADED, ModelState.SLEEPING, ModelState.UNLOADED


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(limited())


class Time:
    """Stands still unless it is told to go on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Callable[[], float] | None = None, **stay: Any) -> tuple[FakeSleeper, Residence]:
    model = FakeSleeper("m")
    return model, Residence(model, Stay(**stay), Roster(), clock=clock or Time())


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def used(residence: Residence, deadline: float | None = None) -> str:
    """Use the model for a moment; how that ended."""
    try:
        async with residence.use(deadline):
            return "used"
    except ApiError as error:
        return f"{error.status} {error.code}"


def test_a_request_brings_a_model_that_is_loaded_on_demand() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        assert (residence.state, await used(residence), residence.state) == (UNLOADED, "used", LOADED)
        assert await used(residence) == "used"
        assert model.told == ["start"]

    run(story)


def test_a_model_that_is_not_is_refused_until_somebody_loads_it() -> None:
    async def story() -> None:
        model, residence = make()
        assert await used(residence) == "503 model_not_loaded"
        await residence.load()
        assert await used(residence) == "used"
        await residence.unload(0.0)
        assert (residence.state, await used(residence)) == (UNLOADED, "503 model_not_loaded")
        await residence.load()
        assert (await used(residence), model.told) == ("used", ["start", "stop", "start"])

    run(story)


def test_what_comes_while_a_model_is_loaded_for_the_first_time_is_told_to_try_again() -> None:
    async def story() -> None:
        model, residence = make()
        model.gate.clear()
        loading = asyncio.create_task(residence.load())
        await settle()
        assert (residence.state, await used(residence)) == (ModelState.LOADING, "503 service_unavailable")
        model.gate.set()
        await loading
        assert await used(residence) == "used"

    run(story)


@pytest.mark.parametrize(("level", "told"), [(1, ["start", "sleep", "wake"]), (2, ["start", "stop", "start"])])
def test_a_request_wakes_a_model_that_sleeps(level: int, told: list[str]) -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        await residence.sleep(level, 0.0)
        assert (residence.state, residence.sleep_level) == (SLEEPING, level)
        assert await used(residence) == "used"
        assert (residence.state, residence.sleep_level, model.told) == (LOADED, 0, told)

    run(story)


def test_all_who_come_while_it_wakes_wait_for_the_same_waking() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.gate.clear()
        waiting = [asyncio.create_task(used(residence)) for _ in range(5)]
        await settle()
        assert (residence.state, residence.waiting) == (ModelState.LOADING, 5)
        model.gate.set()
        assert await asyncio.gather(*waiting) == ["used"] * 5
        assert (model.told, residence.waiting) == (["start"], 0)

    run(story)


def test_so_many_may_wait_and_no_more() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True, max_waiting=2)
        model.gate.clear()
        waiting = [asyncio.create_task(used(residence)) for _ in range(3)]
        await settle()
        assert await waiting[2] == "429 rate_limit_exceeded"
        model.gate.set()
        assert await asyncio.gather(*waiting[:2]) == ["used", "used"]

    run(story)


def test_nobody_waits_longer_than_the_deadline_and_the_model_comes_all_the_same() -> None:
    async def story() -> None:
        clock = Time()
        model, residence = make(clock, on_demand=True)
        model.gate.clear()
        assert await used(residence, deadline=clock.now - 1.0) == "503 service_unavailable"
        model.gate.set()
        await settle()
        assert residence.state is LOADED

    run(story)


def test_loading_is_seen_through_when_whoever_asked_goes_away() -> None:
    async def story() -> None:
        model, residence = make()
        model.gate.clear()
        loading = asyncio.create_task(residence.load())
        await settle()
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        model.gate.set()
        await settle()
        assert (residence.state, model.told) == (LOADED, ["start"])

    run(story)


def test_a_failure_reaches_all_who_wait_and_is_not_repeated_at_once() -> None:
    async def story() -> None:
        clock = Time()
        model, residence = make(clock, on_demand=True)
        model.fails = [LoadError("the file is damaged.")]
        model.gate.clear()
        asking = asyncio.create_task(residence.load())
        waiting = [asyncio.create_task(used(residence)) for _ in range(3)]
        await settle()
        model.gate.set()
        assert await asyncio.gather(*waiting) == ["503 service_unavailable"] * 3
        with pytest.raises(LoadError, match="damaged"):
            await asking
        with pytest.raises(ApiError, match=r"could not be loaded: the file is damaged") as caught:
            async with residence.use(None):
                pass
        assert (caught.value.retry_after_s, model.told, residence.state) == (RETRY_S, ["start"], UNLOADED)
        clock.now += RETRY_S
        assert (await used(residence), model.told) == ("used", ["start", "start"])
        assert (residence.failure, residence.figures().failed_loads, residence.figures().loads) == (None, 1, 1)

    run(story)


def test_a_system_without_a_process_to_give_is_a_failure_like_any_other() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.fails = [BlockingIOError("Resource temporarily unavailable")]
        assert await used(residence) == "503 service_unavailable"

    run(story)


def test_a_fault_of_ours_is_no_endless_loop() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.fails = [ZeroDivisionError()]
        with pytest.raises(ZeroDivisionError):
            await used(residence)

    run(story)


def test_a_model_that_died_in_its_sleep_is_loaded() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        await residence.sleep(1, 0.0)
        model.fails = [EngineDead("gone")]
        assert (await used(residence), model.told) == ("used", ["start", "sleep", "wake", "start"])

    run(story)


def test_a_process_that_dies_on_its_way_to_sleep_has_left_memory_and_the_next_request_loads_it() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        model.fails = [EngineDead("the engine hung")]
        await residence.sleep(1, 0.0)
        assert (residence.state, residence.sleep_level, model.told) == (SLEEPING, 2, ["start", "sleep", "stop"])
        assert (await used(residence), residence.state, model.told[-1]) == ("used", LOADED, "start")

    run(story)


def test_sleep_waits_for_what_is_under_way_and_gives_up_in_time() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        async with residence.use(None):
            with pytest.raises(Busy, match="1 requests are under way"):
                await residence.sleep(1, 0.0)
            assert (residence.state, model.told) == (LOADED, ["start"])
            going = asyncio.create_task(residence.sleep(1, 60.0))
            await settle()
            assert residence.state is ModelState.RELEASING
            late = asyncio.create_task(used(residence))
            await settle()
            assert residence.waiting == 1
        await going
        assert (await late, model.told) == ("used", ["start", "sleep", "wake"])

    run(story)


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
def test_who_waited_for_a_model_to_come_is_let_in_before_it_sleeps(patience_s: float) -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.gate.clear()
        waiting = [asyncio.create_task(used(residence)) for _ in range(3)]
        await settle()
        going = asyncio.create_task(residence.sleep(1, patience_s))
        await settle()
        model.gate.set()
        assert await asyncio.gather(*waiting) == ["used"] * 3
        await going
        assert (residence.state, model.told) == (SLEEPING, ["start", "sleep"])

    run(story)


def test_two_who_put_a_model_to_sleep_do_not_wait_for_each_other() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        async with residence.use(None):
            first = asyncio.create_task(residence.sleep(1, 0.0))
            second = asyncio.create_task(residence.sleep(1, 60.0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            late = asyncio.create_task(used(residence))
            with pytest.raises(Busy):
                await first
            await settle()
        await second
        assert (await late, model.told[:2]) == ("used", ["start", "sleep"])

    run(story)


def test_unload_ends_what_does_not_end_in_time() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        async with residence.use(None):
            await residence.unload(0.0)
            assert (residence.state, model.told) == (UNLOADED, ["start", "stop"])
        assert await used(residence) == "503 model_not_loaded"

    run(story)


def test_what_comes_while_a_model_is_unloaded_does_not_bring_it_back() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        async with residence.use(None):
            going = asyncio.create_task(residence.unload(60.0))
            await settle()
            assert await used(residence) == "503 model_not_loaded"
        await going
        assert model.told == ["start", "stop"]

    run(story)


def test_a_model_that_is_told_to_go_while_it_comes_goes() -> None:
    async def story() -> None:
        model, residence = make()
        model.gate.clear()
        coming = asyncio.create_task(residence.load())
        await settle()
        going = asyncio.create_task(residence.unload(0.0))
        await settle()
        model.gate.set()
        await asyncio.gather(coming, going)
        assert (residence.state, await used(residence), model.told) == (
            UNLOADED,
            "503 model_not_loaded",
            ["start", "stop"],
        )

    run(story)


def test_sleeping_deeper_is_done_and_sleeping_lighter_is_not() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        for level in (1, 1, 2, 1):
            await residence.sleep(level, 0.0)
        assert (residence.sleep_level, model.told) == (2, ["start", "sleep", "stop"])

    run(story)


def test_a_reason_not_to_sleep_reaches_who_asked() -> None:
    async def story() -> None:
        model, residence = make()
        await residence.load()
        model.fails = [CannotSleep("the disk is full")]
        with pytest.raises(CannotSleep, match="the disk is full"):
            await residence.sleep(1, 0.0)
        assert (residence.state, await used(residence)) == (LOADED, "used")

    run(story)


def test_an_idle_model_falls_asleep_by_itself_and_wakes_for_the_next_request() -> None:
    async def story() -> None:
        model, residence = make(keep_alive_s=0.0, on_demand=True)
        async with residence.use(None):
            await settle()
            assert residence.state is LOADED, "somebody uses it"
        await settle()
        assert (residence.state, model.told) == (SLEEPING, ["start", "stop"])
        assert await used(residence) == "used"
        await settle()
        assert model.told == ["start", "stop"] * 2
        assert residence.figures().releases == {
            ReleasedBy.ADMIN: 0, ReleasedBy.KEEP_ALIVE: 2, ReleasedBy.MEMORY: 0
        }  # fmt: skip

    run(story)


def test_a_model_that_was_loaded_and_never_used_falls_asleep_too() -> None:
    async def story() -> None:
        model, residence = make(keep_alive_s=0.0, sleep_level=1)
        await residence.load()
        await settle()
        assert (residence.state, residence.sleep_level, model.told) == (SLEEPING, 1, ["start", "sleep"])

    run(story)


@pytest.mark.parametrize("keep_alive_s", [None, 3600.0])
def test_a_model_that_is_kept_stays(keep_alive_s: float | None) -> None:
    async def story() -> None:
        _, residence = make(keep_alive_s=keep_alive_s)
        await residence.load()
        await used(residence)
        await settle()
        assert residence.state is LOADED
        await residence.stop()

    run(story)


@pytest.mark.parametrize("reason", [CannotSleep("the disk is full"), EngineDead("restarting")])
def test_an_idle_model_that_cannot_sleep_lightly_ends(reason: Exception) -> None:
    async def story() -> None:
        model, residence = make(keep_alive_s=0.0, sleep_level=1)
        model.fails = []
        await residence.load()
        model.fails = [reason]
        await settle()
        assert (residence.state, residence.sleep_level, model.told) == (SLEEPING, 2, ["start", "sleep", "stop"])

    run(story)


def test_stopping_ends_what_comes_and_what_goes() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.gate.clear()
        waiting = asyncio.create_task(used(residence))
        await settle()
        await residence.stop()
        assert await waiting == "503 service_unavailable"
        assert model.told[-1] == "stop"

    run(story)


def test_what_is_used_is_busy_and_what_waits_is_too() -> None:
    async def story() -> None:
        model, residence = make(on_demand=True)
        model.gate.clear()
        assert not residence.holder().is_busy
        waiting = asyncio.create_task(used(residence))
        await settle()
        assert residence.holder().is_busy
        model.gate.set()
        await waiting
        assert not residence.holder().is_busy
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(residence.use(None))
            assert residence.holder().is_busy

    run(story)
