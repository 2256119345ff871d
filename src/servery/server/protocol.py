"""HTTP/1.1 on a connection: requests cut out of its bytes and handed to the application one after the other.

httptools (llhttp, strict) finds the parts. Heads are bounded in size and time, bodies are read no faster than somebody
takes them, requests behind one that is under way wait for it, and what is no HTTP is answered as the API answers errors.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools

from servery.server.alarm import Alarm
from servery.server.cycle import Cycle
from servery.server.known_request import KnownRequest
from servery.server.lingering_close import LingeringClose
from servery.server.outlet import Outlet
from servery.server.request import Line
from servery.server.types import Receive, Scope
from servery.wire.errors import ApiError, encode_error

log = logging.getLogger(__name__)

# Nginx allows 32 KiB in all and 8 KiB per line, Apache 100 fields, Node 16 KiB.
MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100
# How long a connection may take from its first byte, or from being opened, to a complete head.
HEAD_TIMEOUT_S = 15.0
# Idle connections are kept longer than the usual load balancer keeps them (60 s), so that it is never ours that close
# under a request.
KEEP_ALIVE_S = 75.0
# Requests that a client sent before it had the answers to earlier ones.
MAX_PIPELINED = 32
# Of two of these a proxy in front may have read the one and this server the other: whose request is it?
_ONCE = (b"host", b"authorization", b"x-api-key")


class Answer(Protocol):
    """Answers one request; `line` tells more of the client than `receive` does."""

    def __call__(
        self, scope: Scope, receive: Receive, outlet: Outlet, line: Line | None = None
    ) -> Coroutine[Any, Any, None]:
        """The whole way of it."""
        ...


class Connections(Protocol):
    """Who keeps count of the connections."""

    def opened(self, connection: "HttpProtocol") -> None:
        """There is one more."""

    def closed(self, connection: "HttpProtocol") -> None:
        """It is gone."""


class _HeadTooLarge(httptools.HttpParserError):
    pass


class _Refused(httptools.HttpParserError):
    pass


class HttpProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: Answer, loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
        self._answer = answer
        self._loop = loop
        self._connections = connections
        self._parser: Any = httptools.HttpRequestParser(self)
        self._cycle: Cycle | None = None
        self._pipeline: deque[Cycle] = deque()
        self._newest: Cycle | None = None  # whose body comes
        self._known: KnownRequest | None = None
        self._missing_bytes = 0  # of a body that the parser does not see, because it did not see its head
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_in_head = True
        self._is_head_timed = False  # its time has begun, and does not begin anew with its pieces
        self._is_receiving = False
        self._is_deaf = False  # nothing more that comes is a request
        self._is_reading_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.alarm = Alarm(loop)  # of the request under way
        self._idle_since_s = 0.0
        self._drained: asyncio.Future[None] | None = None
        self._peer: tuple[str, int] | None = None
        self.is_write_paused = False

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection is opened: the first head is awaited."""
        self._connections.opened(self)
        self._socket = cast("asyncio.Transport", transport)
        self._transport = LingeringClose(self._socket, self._loop, lambda: self._is_receiving)
        peer = transport.get_extra_info("peername")
        self._peer = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._connections.closed(self)
        self._set_timer(None)
        self.alarm.end()
        self._transport.lost()
        self._is_deaf = True
        self.resume_writing()
        self._pipeline.clear()
        if self._cycle is not None:
            self._cycle.gone()
        self._parser = None  # it holds this object

    def data_received(self, data: bytes) -> None:
        """Bytes have come; after the last answer nobody wants to know what they say."""
        if self._is_deaf or self._transport.is_lingering:
            return
        if self._missing_bytes and not (data := self._take_missing(data)):
            return
        if self._known is not None and self._cycle is None and not self._is_receiving and self._take_known(data):
            return
        is_fresh = not self._is_receiving
        self._is_receiving = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._turn_deaf()  # the request is answered as if it had not asked for another protocol
        except httptools.HttpParserError as error:
            self._broken(error)
        else:
            if self._is_receiving and self._is_in_head:
                if not self._is_head_timed:
                    self._is_head_timed = True
                    self._await_head()
            elif is_fresh and self._newest is not None and self._newest.is_kept:
                self._known = KnownRequest.of(data, self._newest.scope)

    def _take_known(self, data: bytes) -> bool:
        """Whether it is one request whose head says what the one before said: then that is not read again."""
        found = self._known.request(data) if self._known is not None else None
        if found is None:
            return False
        scope, body, self._missing_bytes = found
        if not self._missing_bytes:
            self._newest = cycle = Cycle(self, self._loop, scope, is_kept=True, whole=body)
        else:
            self._newest = cycle = Cycle(self, self._loop, scope, is_kept=True)
            self._is_receiving, self._is_in_head = True, False
            if body:
                cycle.feed(body)
        self._begin(cycle)
        return True

    def _take_missing(self, data: bytes) -> bytes:
        """Take what `data` has of a body that is not complete; what is behind it."""
        piece = data[: self._missing_bytes]
        self._missing_bytes -= len(piece)
        self.on_body(piece)
        if not self._missing_bytes:
            self.on_message_complete()
        return data[len(piece) :]

    def pause_writing(self) -> None:
        """The client reads slower than bytes come."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """It has read most of it."""
        self.is_write_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # What httptools calls.

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        if self._is_deaf or len(self._pipeline) >= MAX_PIPELINED:
            raise _Refused
        self._url, self._headers, self._head_bytes = b"", [], 0
        self._is_in_head = self._is_receiving = True
        self._is_head_timed = False

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLarge

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        if self._is_in_head:  # trailers count, and tell nothing
            self._headers.append((name.lower(), value))
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) > MAX_FIELDS:
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        """The head is complete; what is slow from here on is the application's business."""
        self._is_in_head = False
        parser, headers = self._parser, self._headers
        method, version = parser.get_method().decode("ascii"), parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _Refused
        path, query = _target(self._url)
        scope: Scope = {
            "type": "http", "method": method, "path": path, "query_string": query, "headers": headers, "client": self._peer,
            "fields": (fields := dict(headers)),
        }  # fmt: skip
        is_old = version == "1.0"
        cycle = Cycle(self, self._loop, scope, is_kept=not is_old and parser.should_keep_alive())
        cycle.is_old = is_old
        cycle.expects = fields.get(b"expect", b"").lower() == b"100-continue"
        if len(fields) < len(headers) and any(_occurs_twice(name, headers) for name in _ONCE):
            raise _Refused
        self._newest = cycle
        if self._cycle is None:
            self._begin(cycle)
        else:
            self._pipeline.append(cycle)
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A piece of the request's body."""
        if self._newest is not None and not self._newest.is_complete:
            self._newest.feed(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_receiving = False
        self._is_in_head = True
        if self._newest is not None:
            self._newest.end()
            if not self._newest.is_kept:
                self._is_deaf = True

    # What a cycle asks.

    def write(self, data: bytes) -> None:
        """Send, unless the end has been announced."""
        socket = self._socket
        if not self._transport.is_lingering and not socket.is_closing():
            socket.write(data)

    async def drained(self) -> None:
        """Wait until the client has read most of what was sent, or has gone."""
        if self.is_write_paused:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = True
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless requests wait whose turn it is not."""
        if self._is_reading_paused and not self._pipeline and not self._transport.is_closing():
            self._is_reading_paused = False
            self._socket.resume_reading()

    def over(self) -> None:
        """The response is complete: the next request's turn, or the connection's end."""
        cycle = self._cycle
        if cycle is not None and not cycle.is_kept:
            self._is_deaf = True
            self._transport.close()

    # What the server asks.

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._cycle is None

    def shut_down(self) -> None:
        """Take no further request, and close as soon as the one under way is answered."""
        self._pipeline.clear()
        self._turn_deaf()
        if self._cycle is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._socket.abort()

    def _begin(self, cycle: Cycle) -> None:
        self._cycle = cycle
        cycle.task = self._loop.create_task(self._run(cycle))

    async def _run(self, cycle: Cycle) -> None:
        try:
            await self._answer(cycle.scope, cycle.receive, cycle, cycle)
        finally:
            self._end(cycle)

    def _end(self, cycle: Cycle) -> None:
        """The application is done with a request; one whose answer is not complete is cut, so that nobody takes it for whole."""
        self._cycle = None
        cycle.forget()
        if cycle.is_gone or self._transport.is_closing():
            return
        if not cycle.is_complete or not cycle.is_kept:
            self._is_deaf = True
            self._transport.close()
        elif self._pipeline:
            self._begin(self._pipeline.popleft())
            self.resume_reading()
        elif self._is_deaf:
            self._transport.close()
        else:
            self.resume_reading()
            self._idle_since_s = self._loop.time()
            if self._timer is None:
                self._set_timer(KEEP_ALIVE_S, self._close_if_idle)

    # Deadlines: one timer, which is left alone as long as requests come whole.

    def _set_timer(self, delay_s: float | None, call: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay_s is None or call is None else self._loop.call_later(delay_s, call)

    def _await_head(self) -> None:
        self._set_timer(HEAD_TIMEOUT_S, self._judge_head)

    def _judge_head(self) -> None:
        self._timer = None
        is_late = self._is_in_head and (self._is_receiving or self._newest is None)
        if is_late and not self._transport.is_closing():
            message = f"The request's head did not arrive within {HEAD_TIMEOUT_S:g} seconds."
            self._refuse(ApiError(408, message, code="request_timeout"))
        else:
            self._set_timer(KEEP_ALIVE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        left_s = self._idle_since_s + KEEP_ALIVE_S - self._loop.time()
        if self._cycle is not None or left_s > 0:
            self._set_timer(KEEP_ALIVE_S if self._cycle is not None else left_s, self._close_if_idle)
        else:
            self._transport.close()

    # What is no request.

    def _broken(self, error: httptools.HttpParserError) -> None:
        if isinstance(error.__context__, _HeadTooLarge):
            limits = f"{MAX_HEAD_BYTES} bytes and {MAX_FIELDS} fields"
            self._refuse(ApiError(431, f"The request's head is larger than {limits}.", code="head_too_large"))
        else:
            self._refuse(ApiError(400, "Invalid HTTP request received.", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        """One answer and no second chance; it does not break into one that is under way, which may end."""
        cycle = self._cycle
        self._pipeline.clear()
        if cycle is not None and not cycle.is_complete:
            if cycle.is_received or cycle.is_begun:
                self._turn_deaf()
                return
            cycle.gone()
        self._is_deaf = True
        body = encode_error(error)
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self._transport.write((status + fields).encode("ascii") + body)
        self._transport.close()

    def _turn_deaf(self) -> None:
        self._is_deaf = True
        for cycle in (self._cycle, *self._pipeline):
            if cycle is not None:
                cycle.is_kept = False


def _occurs_twice(name: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return sum(each == name for each, _ in headers) > 1


def _target(url: bytes) -> tuple[str, bytes]:
    """The path and the query of a request's target. Raises what is no target: the parser takes it as an error."""
    if url.startswith(b"/") and not url.startswith(b"//") and b"#" not in url:
        raw_path, _, query = url.partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        raw_path, query = parsed.path or b"/", parsed.query or b""
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, query
