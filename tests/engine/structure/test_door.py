"""Constraints are checked before they go anywhere."""

import asyncio
import gc

import pytest

from servery.engine import constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.door import Door

REFUSED = constraint.json_schema({"type": "integer", "minimum": 5, "maximum": 3})


def test_what_is_refused_is_told_to_the_caller_and_to_nobody_else() -> None:
    """asyncio calls the handler for errors that nobody has looked at."""
    unseen: list[object] = []

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        told = ""
        try:
            await Door().check(REFUSED)
        except InvalidRequest as error:
            told = str(error)
        assert "minimum" in told
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(check())
    assert unseen == []


def test_who_stops_waiting_is_not_told_what_came_of_it() -> None:
    unseen: list[object] = []

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        door = Door()
        task = asyncio.create_task(door.check(REFUSED))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(InvalidRequest):  # the first check is done by then
            await door.check(REFUSED)
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(check())
    assert unseen == []
