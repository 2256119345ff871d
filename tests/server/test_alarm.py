"""One timer for many deadlines: who is called, when, and how often the event loop is asked for one."""

import asyncio

from servery.server.alarm import Alarm
from tests.gateway.virtual_time import run


def timers_of(loop: asyncio.AbstractEventLoop) -> list[float]:
    """When those that were not cancelled ring."""
    scheduled: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
    return sorted(each.when() for each in scheduled if not each.cancelled())


def test_deadlines_that_only_move_later_have_one_timer() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        alarm, called, began_s = Alarm(loop), list[float](), loop.time()
        for _ in range(5):
            alarm.set(60.0, lambda: called.append(loop.time()))
            await asyncio.sleep(10.0)
            assert timers_of(loop) == [began_s + 60.0]
        await asyncio.sleep(200.0)
        assert called == [began_s + 100.0]
        assert timers_of(loop) == []

    run(story)


def test_an_earlier_deadline_is_not_missed() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        alarm, called, began_s = Alarm(loop), list[float](), loop.time()
        alarm.set(60.0, lambda: called.append(-1.0))
        alarm.set(5.0, lambda: called.append(loop.time()))
        await asyncio.sleep(100.0)
        assert called == [began_s + 5.0]

    run(story)


def test_nobody_is_called_once_it_was_cleared_or_ended() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        alarm, called = Alarm(loop), list[int]()
        alarm.set(5.0, lambda: called.append(1))
        alarm.clear()
        await asyncio.sleep(10.0)
        assert timers_of(loop) == []
        alarm.set(5.0, lambda: called.append(2))
        alarm.end()
        assert timers_of(loop) == []
        await asyncio.sleep(10.0)
        assert called == []

    run(story)
