"""One request and its response on a connection: what has come of the one, what has left of the other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from time import time
from typing import Protocol

from servery.server.alarm import Alarm
from servery.server.outlet import SENT, Field
from servery.server.types import Event, Scope

# A body that nobody reads is not read from the connection any further.
MAX_BUFFERED_BYTES = 64 << 10
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_GONE: Event = {"type": "http.disconnect"}
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode("ascii") for each in HTTPStatus}
_BODYLESS = (204, 304)


class Line(Protocol):
    """What a cycle asks of its connection, whose requests have `alarm` in turn."""

    alarm: Alarm

    @property
    def is_write_paused(self) -> bool:
        """Whether the client reads slower than bytes come."""

    def write(self, data: bytes) -> None:
        """Send."""

    async def drained(self) -> None:
        """Wait until it has read most of what was sent, or has gone."""

    def pause_reading(self) -> None:
        """Read nothing more for now."""

    def resume_reading(self) -> None:
        """Read on."""

    def over(self) -> None:
        """The response is complete."""


class Cycle:
    """The request's side is `receive`, as ASGI has it; the response's is an `Outlet`."""

    __slots__ = (
        *(
            "_body",
            "_body_bytes",
            "_called",
            "_chunked",
            "_head",
            "_is_told",
            "_left_bytes",
            "_line",
            "_loop",
            "_waiter",
            "alarm",
            "expects",
            "task",
        ),
        *("is_begun", "is_complete", "is_gone", "is_kept", "is_old", "is_received", "scope"),
    )

    def __init__(
        self, line: Line, loop: asyncio.AbstractEventLoop, scope: Scope, *, is_kept: bool, whole: bytes | None = None
    ) -> None:
        """`is_kept`: the connection goes on after the response. `whole` is the request's body if all of it has come."""
        self.scope = scope
        self.is_kept = is_kept
        self.is_old = False  # a client of HTTP/1.0, which knows nothing of chunks
        self.expects = False  # the client waits for a word before it sends the body
        self.is_received = whole is not None
        self.is_begun = False
        self.alarm = line.alarm
        self.task: asyncio.Task[None] | None = None  # that answers
        self.is_complete = False
        self.is_gone = False
        self._line = line
        self._loop = loop
        self._body: list[bytes] = [whole] if whole else []
        self._body_bytes = 0
        self._is_told = False  # that the body is complete
        self._waiter: asyncio.Future[None] | None = None
        self._called: Callable[[], None] | None = None
        self._head: bytes | None = None
        self._chunked = False
        self._left_bytes: int | None = None

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        """A piece of the request's body."""
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BUFFERED_BYTES:
            self._line.pause_reading()
        self._wake()

    def end(self) -> None:
        """The request is complete."""
        self.is_received = True
        self._wake()

    def gone(self) -> None:
        """The client has gone."""
        self.is_gone = True
        self._wake()
        if self._called is not None and not self.is_complete:
            self._called()

    # What the application asks.

    def watch(self, call: Callable[[], None]) -> None:
        """Have `call` called when the client goes before its answer is complete."""
        self._called = call
        if self.is_gone:
            self._loop.call_soon(call)

    def forget(self) -> None:
        """The application is done: whom it had called holds this cycle, and is not to be held by it in a ring."""
        self._called = self.task = None

    def whole(self) -> bytes | None:
        """The whole body, to whoever has read nothing of it; None unless all of it has come."""
        if not self.is_received or self._is_told or self.is_gone:
            return None
        if self._body_bytes > MAX_BUFFERED_BYTES:
            self._line.resume_reading()
        body, self._body, self._body_bytes = self._body, [], 0
        self._is_told = True
        return body[0] if len(body) == 1 else b"".join(body)

    async def receive(self) -> Event:
        """The next piece of the body, once there is one; that the client has gone, or that all is over."""
        while not self.is_gone and not self.is_complete:
            if self._body or (self.is_received and not self._is_told):
                body, self._body, self._body_bytes = self._body, [], 0
                self._is_told = self.is_received
                self._line.resume_reading()
                data = body[0] if len(body) == 1 else b"".join(body)
                return {"type": "http.request", "body": data, "more_body": not self.is_received}
            if self.expects and not self.is_begun:
                self.expects = False
                self._line.write(_CONTINUE)
            self._waiter = self._loop.create_future()
            await self._waiter
        return _GONE

    def begin(self, status: int, fields: Sequence[Field]) -> None:
        """The response's head. Raises `ValueError` for what would be read as more than it says."""
        text, number = "", len(fields)
        self._left_bytes = None
        for name, value in fields:
            text += f"{name}: {value}\r\n"
            if name == "content-length":
                self._left_bytes = int(value)
            elif name == "connection" and value == "close":
                self.is_kept = False
        lines = text.encode("latin-1")
        if lines.count(b"\n") != number or lines.count(b"\r") != number or b"\0" in lines:
            raise ValueError("a field of the response has a line break in it")
        self._chunked = self._left_bytes is None and not self.is_old
        self.is_kept = self.is_kept and (self._left_bytes is not None or self._chunked)
        if self._chunked and status not in _BODYLESS:
            lines += b"transfer-encoding: chunked\r\n"
        if not self.is_kept and b"connection: close\r\n" not in lines:
            lines += b"connection: close\r\n"
        self._head = b"%b%bdate: %b\r\n\r\n" % (_STATUS_LINES[status], lines, _date.now())
        if self.scope["method"] == "HEAD" or status in _BODYLESS:
            self._chunked, self._left_bytes = False, None

    def write(self, data: bytes, *, is_last: bool) -> Awaitable[None]:
        """Bytes of the response's body, behind its head if they are the first."""
        if self._line.is_write_paused and not self.is_gone:
            return self._write_later(data, is_last=is_last)
        self._write(data, is_last=is_last)
        return SENT

    def write_at_once(self, data: bytes) -> bool:
        """Bytes in the middle of a body in chunks, unless they have to wait or nobody reads them; whether they were sent."""
        line = self._line
        if not self._chunked or self._head is not None or self.is_complete or self.is_gone or line.is_write_paused:
            return False
        line.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    async def _write_later(self, data: bytes, *, is_last: bool) -> None:
        await self._line.drained()
        self._write(data, is_last=is_last)

    def _write(self, data: bytes, *, is_last: bool) -> None:
        if self.is_gone:
            return
        if self.is_complete:
            raise RuntimeError("the response was complete already")
        if self._chunked and data and not is_last:
            framed = b"%x\r\n%b\r\n" % (len(data), data)
        elif is_last and self._left_bytes == len(data):
            framed, self._left_bytes = data, 0
        else:
            framed = self._framed(data, is_last=is_last)
        if self._head is not None:
            framed, self._head = self._head + framed, None
            self.is_begun = True
            self.expects = False
        self.is_complete = is_last
        self._line.write(framed)
        if is_last:
            if self._waiter is not None:
                self._wake()
            if not self.is_kept:
                self._line.over()

    def _framed(self, data: bytes, *, is_last: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk + b"0\r\n\r\n" if is_last else chunk
        if self.scope["method"] == "HEAD":
            return b""
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0 or (is_last and self._left_bytes):
                raise ValueError(f"the response's body is not as long as its head says, by {-self._left_bytes} bytes")
        return data

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class _Date:
    """The date of responses, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        """As RFC 9110 section 5.6.7 has it."""
        second = int(time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode("ascii")
        return self._text


_date = _Date()
