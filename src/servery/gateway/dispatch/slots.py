"""How many requests a deployment has at a time, and who waits for a place: bounded, by priority, then in order."""

import asyncio
import heapq
import itertools

_NEWER = 0.1


class QueueFull(Exception):
    """As many wait as may."""


class Slots:
    """`limit` places (None: any number) and at most `max_waiting` who wait for one. Everything happens on one event loop."""

    def __init__(self, limit: int | None, max_waiting: int) -> None:
        self.limit = limit
        self.max_waiting = max_waiting
        self.in_flight = 0
        self.waiting = 0
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._idle: asyncio.Event | None = None  # of whoever waits for the last place to be given back
        self._held_s: float | None = None  # how long a place is held, newer ones weighing more

    @property
    def predicted_wait_s(self) -> float:
        """How long the next one would wait: all before it, at the pace at which places have become free lately."""
        if self.is_free or self.limit is None or self._held_s is None:
            return 0.0
        return (self.waiting + 1) * self._held_s / self.limit

    @property
    def held_s(self) -> float | None:
        """How long a place is held, as it was lately; None before one was given back."""
        return self._held_s

    @property
    def is_free(self) -> bool:
        """Whether a place can be had without waiting."""
        return self.limit is None or (self.in_flight < self.limit and not self.waiting)

    @property
    def has_room(self) -> bool:
        """Whether a place can be had, or waited for."""
        return self.is_free or self.waiting < self.max_waiting

    def take_at_once(self) -> bool:
        """Have a place if one is free; whether there was one."""
        if self.limit is not None and (self.waiting or self.in_flight >= self.limit):
            return False
        self.in_flight += 1
        return True

    async def take(self, priority: int = 0) -> None:
        """Have a place, lower numbers first; raises `QueueFull`. Who is cancelled while waiting has none."""
        if self.take_at_once():
            return
        if self.waiting >= self.max_waiting:
            raise QueueFull
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._order), place))
        self.waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self.waiting -= 1
            else:
                self.give()  # it was handed over in the same turn of the loop
            raise

    def give(self, held_s: float | None = None) -> None:
        """Let go of a place: whoever is next has it, unless there are more than may be since the limit was lowered.

        `held_s` is for how long somebody had it.
        """
        if held_s is not None:
            self._held_s = held_s if self._held_s is None else self._held_s + _NEWER * (held_s - self._held_s)
        while self._queue and (self.limit is None or self.in_flight <= self.limit):
            _, _, place = heapq.heappop(self._queue)
            if not place.done():
                self.waiting -= 1
                place.set_result(None)
                return
        self.in_flight -= 1
        if self._idle is not None and not self.in_flight:
            self._idle.set()
            self._idle = None

    async def until_idle(self) -> None:
        """Wait until nobody has a place, nor waits for one."""
        if self.in_flight:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def resize(self, limit: int | None, max_waiting: int) -> None:
        """Take up other bounds; who waits has a place as soon as there is one by these. Nobody who has one loses it."""
        self.limit, self.max_waiting = limit, max_waiting
        while self._queue and (limit is None or self.in_flight < limit):
            self.in_flight += 1
            self.give()
