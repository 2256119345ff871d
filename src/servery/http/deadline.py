"""A deadline over a stretch of a coroutine, kept by the timer wheel."""

import asyncio
from types import TracebackType

from servery.http.timer_wheel import LoopTimers, Timer


class Deadline:
    """`with Deadline(timers, at, late):` cancels what is inside once it is `at`, and raises `late` in its place.

    A cancellation from elsewhere goes through untouched, also when both come together.
    """

    def __init__(self, timers: LoopTimers, at: float, late: Exception) -> None:
        self._timers = timers
        self._at = at
        self._late = late
        self._task: asyncio.Task[object] | None = None
        self._timer: Timer | None = None
        self._cancellations = 0
        self._is_over = False

    def __enter__(self) -> "Deadline":
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancellations = self._task.cancelling()
        if self._at != float("inf"):
            self._timer = self._timers.add(self._at, self._pass)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._task is not None
        if self._timer is not None:
            self._timer.cancel()
        if self._is_over and self._task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise self._late from error

    def _pass(self) -> None:
        self._is_over = True
        if self._task is not None:
            self._task.cancel()
