"""Who waits until a deployment can keep the model's SLO: bounded, by priority, then in order; only the first looks.

The others sleep. The first is woken when something has changed at a deployment of the model's, or when its own time is up.
"""

import asyncio
import bisect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager


class TurnsFull(Exception):
    """As many wait as may."""


class Turns:
    """One model's. `limit` is how many may wait. Everything happens on one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clears_s: float | None = None  # about how long the first was told to wait
        self.queue: list[Turn] = []  # who wait, the next one first
        self._order = itertools.count()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self.queue)

    def wake(self) -> None:
        """Something has changed: the first looks again."""
        if self.queue:
            self.queue[0].woken.set()

    @contextmanager
    def turn(self, priority: int, arrived_s: float) -> "Iterator[Turn]":
        """A place in the queue, for as long as the block lasts; raises `TurnsFull`."""
        if len(self.queue) >= self.limit:
            raise TurnsFull
        turn = Turn(self, (priority, arrived_s, next(self._order)))
        bisect.insort(self.queue, turn, key=_key)
        try:
            yield turn
        finally:
            del self.queue[bisect.bisect_left(self.queue, turn.key, key=_key)]
            self.wake()

    def is_first(self, turn: "Turn") -> bool:
        """Whether nobody is before it."""
        return self.queue[0] is turn


class Turn:
    """One who waits."""

    def __init__(self, turns: Turns, key: tuple[int, float, int]) -> None:
        self.key = key
        self.woken = asyncio.Event()
        self._turns = turns

    @property
    def is_first(self) -> bool:
        """Whether it is to look whether it can go."""
        return self._turns.is_first(self)

    async def until_woken(self, most_s: float) -> None:
        """Wait until there is something to look at, at most so long."""
        self.woken.clear()
        try:
            async with asyncio.timeout(most_s):
                await self.woken.wait()
        except TimeoutError:
            return


def _key(turn: Turn) -> tuple[int, float, int]:
    return turn.key
