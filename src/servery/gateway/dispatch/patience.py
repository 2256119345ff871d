"""How long an upstream may be silent, and a client not read: inside, an answer that does not go on in time is cut.

One timer for each phase of an answer, looked at when it rings and not with every chunk.
"""

import asyncio
from types import TracebackType

from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.wire.errors import ApiError

# A client that takes nothing for so long holds a place that others wait for.
SLOW_READER_S = 120.0
_SAID = {
    Deadline.FIRST_TOKEN: "'{name}' gave no first token within {limit_s:g} s.",
    Deadline.STALL: "'{name}' gave nothing more for {limit_s:g} s.",
}


class Patience:
    """Raises `UpstreamFailure` at the end of the block that was cut short because `limit_s` passed without progress.

    `ApiError` (408) if it was cut short because the client read nothing for `SLOW_READER_S`.
    """

    def __init__(self, name: str, deadline: Deadline, limit_s: float) -> None:
        """`name` is the deployment's."""
        self._name = name
        self._deadline = deadline
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._since_s = self._loop.time()
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancellations = 0  # that were asked for before
        self._is_cut = False

    def __enter__(self) -> "Patience":
        self._cancellations = self._task.cancelling()
        self._ring_in(self._limit_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Who cancels from elsewhere at the same time has the last word.
        if self._is_cut and self._task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise self._late() from error

    def _late(self) -> ApiError | UpstreamFailure:
        if self._is_paused:
            message = f"The client read nothing of its answer for {SLOW_READER_S:g} s."
            return ApiError(408, message, code="slow_reader", headers=[("connection", "close")])
        said = _SAID[self._deadline].format(name=self._name, limit_s=self._limit_s)
        return UpstreamFailure(Kind.TIMEOUT, said, deadline=self._deadline)

    def progress(self) -> float:
        """Something came. Returns the event loop's time."""
        now = self._since_s = self._loop.time()
        return now

    def advance(self, deadline: Deadline, limit_s: float) -> None:
        """Something came; from the first time on this silence is meant."""
        if self._deadline is deadline:
            self.progress()
        else:
            self.expect(deadline, limit_s)

    def expect(self, deadline: Deadline, limit_s: float) -> None:
        """From here on another silence is meant."""
        self._deadline, self._limit_s = deadline, limit_s
        self.progress()
        if self._timer is not None:
            self._timer.cancel()
        self._ring_in(limit_s)

    def pause(self) -> None:
        """It is the client's turn: the upstream's time does not count until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """The upstream's turn again."""
        self._is_paused = False
        self._since_s = self._loop.time()

    def _ring_in(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        left_s = self._since_s + (SLOW_READER_S if self._is_paused else self._limit_s) - now
        if left_s > 0:
            self._ring_in(left_s)
        else:
            self._is_cut = True
            self._task.cancel()
