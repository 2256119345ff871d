"""Ending a request from outside: the client has gone, its time is up, or the server stops."""

import asyncio
import enum

from servery.server.alarm import Alarm
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

    def __init__(self, task: "asyncio.Task[None]", alarm: Alarm | None = None) -> None:
        """`alarm` is the connection's, where it has one for its requests."""
        self._task = task
        self._alarm = alarm
        self._is_lent = alarm is not None
        self._is_open = True
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
        if self._is_open:
            self._due_for = reason
            if self._alarm is None:
                self._alarm = Alarm(self._task.get_loop())
            self._alarm.set(delay_s, self._ring)

    def _ring(self) -> None:
        self.fire(self._due_for)

    def by(self) -> str | None:
        """Who ended the request, in the word of the metrics; None if nobody did."""
        return None if self.reason is None else self.reason.value

    def close(self) -> None:
        """From here on the task is not to be disturbed."""
        self._is_open = False
        alarm, self._alarm = self._alarm, None
        if alarm is not None and self._is_lent:
            alarm.clear()
        elif alarm is not None:
            alarm.end()

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
