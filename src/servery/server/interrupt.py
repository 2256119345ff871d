"""Ending a request from outside: the client has gone, its time is up, or the server stops."""

import asyncio
import enum

from servery.wire.errors import ApiError, timed_out, unavailable


class Reason(enum.Enum):
    """Why a request was ended; the values are a metric's label."""

    CLIENT = "client"
    SLOW_BODY = "slow_body"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class ClientGone(Exception):
    """The client closed the connection before its request was read."""


class Interrupt:
    """Cancels the task that handles a request, at most once, and remembers why.

    What the task opened is closed on its way out, as with any cancellation. After `close` nothing can fire any more.
    """

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True
        self._due_s = 0.0
        self._due_for = Reason.TIMEOUT
        self.reason: Reason | None = None

    def fire(self, reason: Reason) -> None:
        """Cancel the task, unless it was before or is through."""
        if self._is_open:
            self.close()
            self.reason = reason
            self._task.cancel()

    def fire_after(self, delay_s: float, reason: Reason) -> None:
        """Fire later, instead of when it was to fire until now."""
        loop = self._task.get_loop()
        self._due_s, self._due_for = loop.time() + delay_s, reason
        if self._timer is not None and self._timer.when() > self._due_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._is_open:
            self._timer = loop.call_at(self._due_s, self._ring)

    def _ring(self) -> None:
        """The time of some deadline has come; a later one may have taken its place."""
        self._timer = None
        if self._task.get_loop().time() >= self._due_s:
            self.fire(self._due_for)
        else:
            self.fire_after(self._due_s - self._task.get_loop().time(), self._due_for)

    def by(self) -> str | None:
        """Who ended the request, in the word of the metrics; None if nobody did."""
        return None if self.reason is None else self.reason.value

    def close(self) -> None:
        """From here on the task is not to be disturbed."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it holds this object

    def absorb(self) -> None:
        """Take back the cancellation that `fire` asked for; to be called where it was caught."""
        self._task.uncancel()


def interruption(reason: Reason, *, body_timeout_s: float, request_timeout_s: float, setting: str) -> ApiError:
    """What the client is told; one that has gone hears nothing of it. `setting` says what sets `request_timeout_s`."""
    if reason is Reason.SHUTDOWN:
        return unavailable("The server is shutting down and could not finish this answer in time.", 1.0)
    if reason is Reason.SLOW_BODY:
        message = f"The request body did not arrive within {body_timeout_s:g} seconds."
        return ApiError(408, message, code="request_timeout", headers=[("connection", "close")])
    return timed_out(f"The answer took longer than this server's limit of {request_timeout_s:g} s ({setting}).")
