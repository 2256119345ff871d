"""A second attempt beside one that is slow to begin: the first to begin answers, the other is aborted at once.

After Dean and Barroso, "The Tail at Scale" (2013): asked again only behind the slowest few, and within the retry budget, it
costs a few requests and cuts the tail.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from servery.upstream.failure import UpstreamFailure

T = TypeVar("T")


async def first_to_begin(
    first: Coroutine[Any, Any, T],
    after_s: float,
    second: Callable[[], Coroutine[Any, Any, T] | None],
    give_up: Callable[[T], Awaitable[None]],
) -> T:
    """What `first` gives, or, if it takes longer than `after_s` and `second` makes one, whatever of both comes first.

    One that fails is no end while the other runs; what both fail with is the first one's. Whoever lost is cancelled, and
    what it gave in the same moment is given up.
    """
    racers = [asyncio.create_task(first)]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait(racers, timeout=after_s)
        if not racers[0].done() and (other := second()) is not None:
            racers.append(asyncio.create_task(other))
        winner = await _winner(racers)
        return winner.result()
    finally:
        await _stop([each for each in racers if each is not winner], give_up)


async def _winner(racers: Sequence[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The first that gives something, or an error that is no deployment's failure; the first racer if none does."""
    waiting = set(racers)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in racers:
            if each in done and not isinstance(each.exception(), UpstreamFailure):
                return each
    return racers[0]


async def _stop(losers: Sequence[asyncio.Task[T]], give_up: Callable[[T], Awaitable[None]]) -> None:
    for each in losers:
        each.cancel()
    for given in await asyncio.gather(*losers, return_exceptions=True):
        if not isinstance(given, BaseException):
            await give_up(given)
