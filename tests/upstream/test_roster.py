"""Several models in one memory: who comes, who makes room, who is never asked to."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from servery.engine.errors import LoadError, NotEnoughMemory
from servery.engine.memory import RESERVE_BYTES
from servery.telemetry.residency import ModelState
from servery.upstream.residence import Residence, Stay
from servery.upstream.roster import Roster
from tests.upstream.fake_sleeper import FakeSleeper, Machine

GIB = 1 << 30


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(limited())


class House:
    """Models `a`, `b`, ... of given sizes in one memory; each use is a second after the last."""

    def __init__(self, *sizes: int, budget: int | None = None, machine: int | None = None) -> None:
        self.now = 0.0
        shared, roster = Machine(machine), Roster(budget)
        self.models = {name: FakeSleeper(name, size, shared) for name, size in zip("abcd", sizes, strict=False)}
        self.residences = {
            name: Residence(model, Stay(on_demand=True), roster, clock=self._clock)
            for name, model in self.models.items()
        }

    def _clock(self) -> float:
        self.now += 1.0
        return self.now

    async def use(self, name: str) -> None:
        async with self.residences[name].use(None):
            pass

    @property
    def loaded(self) -> str:
        return "".join(name for name, each in self.residences.items() if each.state is ModelState.LOADED)


def test_without_a_budget_everybody_comes_that_the_machine_has_room_for() -> None:
    async def story() -> None:
        house = House(4, 4, 4, machine=12)
        for name in "abc":
            await house.use(name)
        assert house.loaded == "abc"
        assert [model.granted for model in house.models.values()] == [[None]] * 3

    run(story)


def test_the_one_used_longest_ago_makes_room() -> None:
    async def story() -> None:
        house = House(4, 4, 4, 4, machine=12)
        for name in "abcad":
            await house.use(name)
        assert house.loaded == "acd"
        await house.use("b")
        assert house.loaded == "abd"

    run(story)


def test_as_many_go_as_are_needed_and_no_more() -> None:
    async def story() -> None:
        house = House(4, 4, 4, 8, machine=12)
        for name in "abcd":
            await house.use(name)
        assert house.loaded == "cd"

    run(story)


def test_one_that_sleeps_goes_before_one_that_is_awake() -> None:
    async def story() -> None:
        house = House(4, 4, 8, machine=12)
        await house.use("a")
        await house.use("b")
        await house.residences["b"].sleep(1, 0.0)
        await house.use("c")
        assert house.loaded == "ac"
        assert house.residences["b"].sleep_level == 2

    run(story)


def test_one_with_requests_under_way_is_never_asked() -> None:
    async def story() -> None:
        house = House(8, 8, machine=12)
        async with house.residences["a"].use(None):
            with pytest.raises(NotEnoughMemory, match="b needs 8 of 4"):
                await house.residences["b"].load()
            assert house.loaded == "a"
        await house.residences["b"].load()
        assert house.loaded == "b"

    run(story)


def test_nobody_goes_for_one_that_cannot_be_loaded_for_another_reason() -> None:
    async def story() -> None:
        house = House(4, 4, machine=12)
        await house.use("a")
        house.models["b"].fails = [LoadError("damaged")]
        with pytest.raises(LoadError, match="damaged"):
            await house.residences["b"].load()
        assert house.loaded == "a"

    run(story)


def test_two_that_come_at_once_come_one_after_the_other() -> None:
    async def story() -> None:
        house = House(4, 4, machine=12)
        for model in house.models.values():
            model.gate.clear()
        coming = [asyncio.create_task(house.use(name)) for name in "ab"]
        for _ in range(20):
            await asyncio.sleep(0)
        assert [model.told for model in house.models.values()] == [["start"], []]
        for model in house.models.values():
            model.gate.set()
        await asyncio.gather(*coming)
        assert house.loaded == "ab"

    run(story)


def test_two_that_do_not_fit_together_each_get_their_turn() -> None:
    async def story() -> None:
        house = House(8, 8, machine=12)
        await asyncio.gather(house.use("a"), house.use("b"), house.use("a"), return_exceptions=True)
        await house.use("a")
        await house.use("b")
        assert house.loaded == "b"

    run(story)


def test_a_budget_is_shared_out_and_what_is_left_is_all_that_the_next_may_take() -> None:
    async def story() -> None:
        house = House(2 * GIB, GIB, budget=4 * GIB)
        await house.use("a")
        await house.use("b")
        assert [model.granted for model in house.models.values()] == [[4 * GIB], [2 * GIB]]

    run(story)


def test_a_budget_that_is_used_up_makes_room_before_anything_is_started() -> None:
    async def story() -> None:
        house = House(4 * GIB, GIB, budget=4 * GIB)
        await house.use("a")
        await house.use("b")
        assert (house.loaded, house.models["b"].told, house.models["b"].granted) == ("b", ["start"], [4 * GIB])

    run(story)


def test_a_budget_that_others_use_is_told_with_their_names() -> None:
    async def story() -> None:
        house = House(4 * GIB, GIB, budget=4 * GIB)
        async with house.residences["a"].use(None):
            with pytest.raises(NotEnoughMemory) as caught:
                await house.residences["b"].load()
        assert str(caught.value) == (
            "not enough memory: of the 4 GiB for all models (--memory) 0 B are left, and a process alone takes 512 MiB; in "
            "memory are: a 4 GiB. Raise --memory, or unload another model."
        )
        assert caught.value.needed_bytes == RESERVE_BYTES

    run(story)


def test_one_that_wakes_needs_its_room_again() -> None:
    async def story() -> None:
        house = House(3 * GIB, 2 * GIB, budget=4 * GIB)
        await house.use("a")
        await house.residences["a"].sleep(1, 0.0)
        await house.use("b")
        assert house.loaded == "b"
        await house.use("a")
        assert (house.loaded, house.models["a"].told) == ("a", ["start", "sleep", "wake"])

    run(story)


def test_one_that_has_left_the_house_is_not_counted() -> None:
    async def story() -> None:
        house = House(3 * GIB, 2 * GIB, budget=4 * GIB)
        async with house.residences["a"].use(None):
            await house.residences["a"].stop()
            await house.use("b")
        assert house.loaded == "b"

    run(story)


def test_nobody_goes_where_models_do_not_make_room() -> None:
    async def story() -> None:
        machine, roster = Machine(12), Roster(makes_room=False)
        first, second = (Residence(FakeSleeper(name, 8, machine), Stay(), roster) for name in "ab")
        await first.load()
        with pytest.raises(NotEnoughMemory, match="b needs 8 of 4"):
            await second.load()
        assert first.state is ModelState.LOADED

    run(story)
