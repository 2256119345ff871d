import asyncio
import random

import pytest

from servery.gateway.dispatch.slots import QueueFull, Slots
from tests.gateway.virtual_time import run


def test_without_a_limit_there_is_always_a_place() -> None:
    async def story() -> None:
        slots = Slots(None, 0)
        for _ in range(100):
            await slots.take()
        assert (slots.in_flight, slots.is_free, slots.predicted_wait_s) == (100, True, 0.0)

    run(story)


def test_places_go_to_the_lowest_number_first_then_in_order() -> None:
    async def story() -> None:
        slots, served = Slots(1, 10), []
        await slots.take()

        async def one(name: str, priority: int) -> None:
            await slots.take(priority)
            served.append(name)
            slots.give()

        tasks = [
            asyncio.create_task(one(name, priority)) for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1))
        ]
        await asyncio.sleep(0)
        assert (slots.waiting, slots.in_flight) == (4, 1)
        slots.give()
        await asyncio.gather(*tasks)
        assert (served, slots.in_flight, slots.waiting) == (["d", "a", "c", "b"], 0, 0)

    run(story)


def test_more_than_may_wait_are_refused() -> None:
    async def story() -> None:
        slots = Slots(1, 1)
        await slots.take()
        waiting = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        assert (slots.has_room, slots.is_free) == (False, False)
        with pytest.raises(QueueFull):
            await slots.take()
        slots.give()
        await waiting

    run(story)


def test_a_place_that_was_handed_to_one_who_left_in_the_same_turn_goes_to_the_next() -> None:
    async def story() -> None:
        slots = Slots(1, 10)
        await slots.take()
        leaving, next_one = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        slots.give()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await next_one
        assert (slots.in_flight, slots.waiting) == (1, 0)

    run(story)


def test_a_wider_limit_lets_those_in_who_wait() -> None:
    async def story() -> None:
        slots = Slots(1, 10)
        await slots.take()
        tasks = [asyncio.create_task(slots.take()) for _ in range(3)]
        await asyncio.sleep(0)
        slots.resize(3, 10)
        await asyncio.sleep(0)
        assert (slots.in_flight, slots.waiting) == (3, 1)
        slots.resize(None, 10)
        await asyncio.gather(*tasks)
        assert (slots.in_flight, slots.waiting) == (4, 0)

    run(story)


def test_a_lower_limit_counts_while_others_wait() -> None:
    async def story() -> None:
        slots = Slots(4, 10)
        for _ in range(4):
            await slots.take()
        tasks = [asyncio.create_task(slots.take()) for _ in range(3)]
        await asyncio.sleep(0)
        slots.resize(2, 10)
        seen = []
        for _ in range(5):
            slots.give()
            await asyncio.sleep(0)
            seen.append((slots.in_flight, slots.waiting))
        assert seen == [(3, 3), (2, 3), (2, 2), (2, 1), (2, 0)]
        await asyncio.gather(*tasks)
        slots.give()
        slots.give()
        await slots.until_idle()

    run(story)


def test_a_wider_limit_is_taken_up_in_the_turn_in_which_all_who_waited_have_left() -> None:
    async def story() -> None:
        slots = Slots(1, 10)
        await slots.take()
        leaving = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        leaving.cancel()
        slots.resize(3, 10)
        await asyncio.gather(leaving, return_exceptions=True)
        assert (slots.in_flight, slots.waiting) == (1, 0)

    run(story)


def test_the_wait_is_predicted_from_how_long_places_are_held() -> None:
    async def story() -> None:
        slots = Slots(2, 10)
        await slots.take()
        await slots.take()
        assert slots.predicted_wait_s == 0.0  # nothing is known yet
        slots.give(4.0)
        await slots.take()
        assert slots.predicted_wait_s == 2.0

    run(story)


@pytest.mark.parametrize("seed", range(10))
def test_there_are_never_more_than_the_limit_and_nobody_waits_while_there_is_a_place(seed: int) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        slots, inside = Slots(3, 5), 0

        async def one() -> None:
            nonlocal inside
            try:
                await slots.take(chance.randrange(3))
            except QueueFull:
                assert slots.waiting == 5
                return
            inside += 1
            assert inside <= 3
            try:
                await asyncio.sleep(chance.random())
            finally:
                inside -= 1
                slots.give()

        tasks = []
        for _ in range(100):
            tasks.append(asyncio.create_task(one()))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            await asyncio.sleep(chance.random() / 4)
            assert slots.in_flight == 3 or slots.waiting == 0
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (slots.in_flight, slots.waiting) == (0, 0)

    run(story)
