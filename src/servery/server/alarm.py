"""One timer for a connection's requests, one after the other: it is left alone as long as the next one is due no earlier."""

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls once at the time that was set last, unless it was cleared before; `end` it when nobody sets it any more.

    To make a timer of the event loop and to take it away takes longer than to find, once a minute, that it came too early.
    """

    __slots__ = ("_at_s", "_call", "_due_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = 0.0  # of the timer
        self._due_s = 0.0
        self._call: Callable[[], None] | None = None

    def set(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call later, instead of what was to be called until now."""
        self._due_s, self._call = self._loop.time() + delay_s, call
        if self._timer is None or self._due_s < self._at_s:
            self._start()

    def clear(self) -> None:
        """Call nobody."""
        self._call = None

    def end(self) -> None:
        """Call nobody, and let go of the timer."""
        self._call = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at_s = self._due_s
        self._timer = self._loop.call_at(self._at_s, self._ring)

    def _ring(self) -> None:
        """The time of some call has come; a later one may have taken its place."""
        self._timer = None
        if self._call is None:
            return
        if self._loop.time() < self._due_s:
            self._start()
        else:
            call, self._call = self._call, None
            call()
