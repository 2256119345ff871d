"""Those who wait go by priority, then in order; only the first is woken; no more wait than may."""

import asyncio

import pytest

from servery.gateway.dispatch.turns import Turns, TurnsFull
from tests.gateway.virtual_time import now, run


def test_the_first_is_woken_and_when_it_goes_the_next() -> None:
    async def story() -> None:
        turns, went = Turns(10), list[str]()
        looked: dict[str, int] = {}

        async def wait(name: str, priority: int, arrived_s: float) -> None:
            with turns.turn(priority, arrived_s) as turn:
                while not turn.is_first or not looked.get("may", 0):
                    await turn.until_woken(1e3)
                    looked[name] = looked.get(name, 0) + 1
                looked["may"] -= 1
                went.append(name)

        asked = [("late", 0, 9.0), ("early", 0, 1.0), ("batch", 1, 0.0), ("urgent", -1, 99.0), ("gone", -1, 1.0)]
        tasks = {name: asyncio.create_task(wait(name, priority, at_s)) for name, priority, at_s in asked}
        await asyncio.sleep(1.0)
        assert (turns.waiting, looked) == (5, {})
        tasks["gone"].cancel()
        await asyncio.sleep(1.0)
        assert (turns.waiting, looked) == (4, {"urgent": 1})
        looked["may"] = 2
        turns.wake()
        await asyncio.sleep(1.0)
        assert (went, looked["may"]) == (["urgent", "early"], 0)
        looked["may"] = 2
        turns.wake()
        await asyncio.sleep(1.0)
        assert (went, turns.waiting) == (["urgent", "early", "late", "batch"], 0)

    run(story)


def test_no_more_wait_than_may_and_nobody_longer_than_its_time() -> None:
    async def story() -> None:
        turns = Turns(1)
        with turns.turn(0, 0.0) as turn:
            with pytest.raises(TurnsFull), turns.turn(-1, 0.0):
                pass
            began_s = now()
            await turn.until_woken(3.0)
            assert (now() - began_s, turns.waiting) == (3.0, 1)
        assert turns.waiting == 0
        turns.wake()  # whom nobody hears

    run(story)
