"""Several streams as one, in the order in which their items come."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


async def merge(sources: Sequence[AsyncGenerator[T, None]], at_a_time: int) -> AsyncGenerator[T, None]:
    """Items of all `sources`, each source in its own order; the first error of any ends it. Closes every source.

    No more than `at_a_time` sources are under way at once; the next one in order begins when one has ended.
    """
    if len(sources) == 1:
        async with contextlib.aclosing(sources[0]) as only:
            async for item in only:
                yield item
        return
    queue: asyncio.Queue[_Item[T] | BaseException | None] = asyncio.Queue(maxsize=2 * len(sources))
    gate = asyncio.Semaphore(at_a_time)
    pumps = [asyncio.create_task(_pump(source, gate, queue)) for source in sources]
    open_sources = len(sources)
    try:
        while open_sources:
            got = await queue.get()
            if got is None:
                open_sources -= 1
            elif isinstance(got, _Item):
                yield got.value
            else:
                raise got
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    source: AsyncGenerator[T, None],
    gate: asyncio.Semaphore,
    queue: "asyncio.Queue[_Item[T] | BaseException | None]",
) -> None:
    try:
        async with contextlib.aclosing(source), gate:
            async for value in source:
                await queue.put(_Item(value))
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who reads raises it again
        await queue.put(error)
    else:
        await queue.put(None)
