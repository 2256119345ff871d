"""Every store of limits, with a clock that the test turns: one contract, one set of tests."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from servery.config.types import Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, LimitStore, Plan, meters
from servery.gateway.admit.limits.shared import SharedLimits

# 2026-02-28T23:58:20Z, so that a day and a month end soon.
START_S = 1_772_323_100
T = TypeVar("T")


@dataclass
class Clock:
    """Time in whole milliseconds."""

    now_ms: int = 1000 * START_S

    def __call__(self) -> float:
        return self.now_ms / 1000


@dataclass(frozen=True)
class Backend:
    """How to make an empty store of one kind, and to wait until it has counted what was settled."""

    store: Callable[[Clock], LimitStore]
    settled: Callable[[Any], Awaitable[None]]
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    examples: int


async def _at_once(store: object) -> None:
    """There is nothing to wait for."""


@contextlib.contextmanager
def in_memory(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with asyncio.Runner() as runner:
        yield Backend(lambda clock: MemoryLimits(clock, clock), _at_once, runner.run, examples=40)


@contextlib.contextmanager
def in_redis(request: pytest.FixtureRequest) -> Iterator[Backend]:
    url = request.getfixturevalue("redis_url")
    with asyncio.Runner() as runner:
        made: list[SharedLimits] = []

        async def fresh(clock: Clock) -> SharedLimits:
            for each in made:
                await each.close()
            made[:] = [SharedLimits(url, 5.0, lambda: clock.now_ms)]
            await made[0].client.flushall()
            return made[0]

        yield Backend(lambda clock: runner.run(fresh(clock)), _told, runner.run, examples=12)
        for each in made:
            runner.run(each.close())


async def _told(store: SharedLimits) -> None:
    """What was settled before is counted before what comes now: they go one way."""
    await store.reserve(Plan(()), Cost(), 1)


def plan_of(*scopes: tuple[str, str, Limits]) -> Plan:
    return Plan([meter for scope in scopes for meter in meters(*scope)])
