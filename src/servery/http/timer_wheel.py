"""Many deadlines, one timer of the event loop: a hashed wheel with coarse ticks.

Adding and cancelling cost one dictionary operation each, whatever is in the wheel; a tick looks at one slot. A timer
never fires early, and late by at most one tick (and by what the event loop is late). Deadlines further away than one
turn of the wheel stay in their slot and are looked at once per turn.
Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 6.
"""

import asyncio
from collections.abc import Callable

TICK_S = 0.02
_ROUNDING_S = 0.001  # of an event loop that counts in milliseconds, so that a tick has passed when it is looked at
SLOTS = 2048  # a turn of 41 s at this tick


class Timer:
    """One deadline, due when the wheel has passed its tick."""

    __slots__ = ("_callback", "_wheel", "at", "tick")

    def __init__(self, at: float, tick: int, callback: Callable[[], None], wheel: "TimerWheel") -> None:
        self.at = at
        self.tick = tick
        self._callback: Callable[[], None] | None = callback
        self._wheel = wheel

    def cancel(self) -> None:
        """Forget it. Does nothing if it fired or was cancelled before."""
        self._callback = None
        self._wheel.remove(self)

    def fire(self) -> None:
        """Call back, unless it was cancelled after it had become due."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class TimerWheel:
    """The wheel itself: no clock and no event loop, time (seconds) is passed in."""

    def __init__(self, now: float, tick_s: float = TICK_S, slots: int = SLOTS) -> None:
        self._start = now
        self._tick_s = tick_s
        self._turn = slots  # ticks
        self._slots: list[dict[Timer, None]] = [{} for _ in range(slots)]
        self._passed = 0  # the last tick that was looked at
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, at: float, callback: Callable[[], None]) -> Timer:
        """A timer due at `at`; what is due already fires at the next tick."""
        # One tick later than `at` lies in: the same rounding as in `advance`, so that rounding never makes it early.
        tick = int((at - self._start) / self._tick_s)
        tick = (max(self._passed, tick)) + 1
        timer = Timer(at, tick, callback, self)
        self._slots[tick % self._turn][timer] = None
        self._size += 1
        return timer

    def remove(self, timer: Timer) -> None:
        """Take a timer out, if it is in."""
        if self._slots[timer.tick % self._turn].pop(timer, timer) is None:
            self._size -= 1

    def advance(self, now: float) -> list[Timer]:
        """Take out what is due at `now`, in the order of the deadlines; a clock that went back changes nothing."""
        last = int((now - self._start) / self._tick_s)
        first = max(self._passed + 1, last - self._turn + 1)  # a sleep of more than a turn sees each slot once
        slots = (self._slots[tick % self._turn] for tick in range(first, last + 1))
        due = sorted((timer for slot in slots for timer in slot if timer.tick <= last), key=_deadline)
        for timer in due:
            self.remove(timer)
        self._passed = max(self._passed, last)
        return due

    def passes_at(self, timer: Timer) -> float:
        """When the tick of a timer has passed."""
        return self._start + timer.tick * self._tick_s

    def next_at(self) -> float | None:
        """When the first slot passes that has something in it, be it for a later turn; None if none has."""
        if not self._size:
            return None
        first = self._passed + 1
        tick = next(tick for tick in range(first, first + self._turn) if self._slots[tick % self._turn])
        return self._start + tick * self._tick_s


class LoopTimers:
    """A wheel turned by an event loop, when there is something to be looked at. Times are those of `loop.time()`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float = TICK_S) -> None:
        self.loop = loop
        self._wheel = TimerWheel(loop.time(), tick_s)
        self._handle: asyncio.TimerHandle | None = None
        self._turns_at = 0.0

    def __len__(self) -> int:
        return len(self._wheel)

    def add(self, at: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once it is `at`; an exception of it goes to the loop's exception handler."""
        timer = self._wheel.add(at, callback)
        self._turn_at(self._wheel.passes_at(timer))
        return timer

    def close(self) -> None:
        """Stop turning. What is in the wheel does not fire any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        self._handle = None
        for timer in self._wheel.advance(self.loop.time()):
            self.loop.call_soon(timer.fire)
        if (at := self._wheel.next_at()) is not None:
            self._turn_at(at)

    def _turn_at(self, at: float) -> None:
        """Turn the wheel at that time, unless it is turned before anyway."""
        if self._handle is not None:
            if self._turns_at <= at:
                return
            self._handle.cancel()
        self._turns_at = at
        self._handle = self.loop.call_at(at + _ROUNDING_S, self._turn)


def _deadline(timer: Timer) -> float:
    return timer.at
