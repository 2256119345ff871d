"""One HTTP/1.1 connection, one exchange at a time, that notes when each piece of the answer arrived.

The time is taken in `data_received`, before anything is parsed: what a coroutine that wakes up later would see also
holds the client's own queueing.

This is not the gateway's client (`http/`), on purpose. That one hands on bytes without their times, and taking a time for
every piece would cost each relayed event of every answer; and a fault of a client that the measured server shares with
the one that measures would show in no figure.
"""

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from time import perf_counter
from typing import NamedTuple, cast

import httptools

from servery.bench.address import Address
from servery.bench.errors import ClientError, CutShort, Malformed, OutOfConnections, TimedOut, Unreachable

_NONE: Mapping[str, str] = {}
HANDSHAKE_S = 15.0
_OURS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS)  # what a client lacks, not its server
PENDING_LIMIT_BYTES = 1 << 20  # of a body that nobody reads: the socket is paused there


class Head(NamedTuple):
    """The status line and the headers (names in lower case), and when their last byte arrived."""

    at: float
    status: int
    headers: dict[str, str]


class Piece(NamedTuple):
    """Bytes of the body, and when they arrived (seconds of `time.perf_counter`)."""

    at: float
    data: bytes


class _Wire(asyncio.Protocol):
    """Turns arriving bytes into a head and timed pieces; the httptools parser calls the `on_` methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._now = 0.0
        self.is_complete = True
        self._expect()

    def _expect(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.head: Head | None = None
        self.is_begun = False
        self.is_reusable = False
        self._error: ClientError | None = None
        self._pieces: deque[Piece] = deque()
        self._pending_bytes = 0
        self._headers: dict[str, str] = {}

    @property
    def is_idle(self) -> bool:
        """Whether it is open and the last answer was read to its end."""
        return self._transport is not None and self.is_complete and not self._pieces

    def ask(self, request: bytes, timeout_s: float) -> None:
        """Write a request and be ready for its answer, which must be complete within `timeout_s`."""
        self._expect()
        self.is_complete = False
        if self._transport is None:
            self._error = CutShort("The server closed the connection before the request was sent.")
            return
        late = TimedOut(f"The answer was not complete within {timeout_s:g} s.")
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._fail, late)
        self._transport.write(request)

    def take(self) -> Piece | None:
        """The next piece that has arrived, if any."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._pending_bytes -= len(piece.data)
        if self._is_paused and not self._pieces and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    async def changed(self) -> None:
        """Wait until something arrives. Raises what broke the exchange, now or earlier."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def abandon(self) -> None:
        """Close at once, whatever is under way."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # what a stream connection always gives

    def data_received(self, data: bytes) -> None:
        self._now = perf_counter()
        self.is_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Malformed(f"The server's answer is not HTTP/1.1 ({error}); it has {data[:40]!r}."))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stop_timer()
        if not self.is_complete and self.head is not None and _ends_with_connection(self.head):
            self.is_complete = True
        elif not self.is_complete and self._error is None:
            when = "in the middle of its answer" if self.is_begun else "without an answer"
            self._error = CutShort(f"The server closed the connection {when}{f' ({exc})' if exc else ''}.")
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # 1xx only announce the real answer
            self.head = Head(self._now, self._parser.get_status_code(), self._headers)
        self._headers = {}

    def on_body(self, data: bytes) -> None:
        self._pieces.append(Piece(self._now, data))
        self._pending_bytes += len(data)
        if self._pending_bytes > PENDING_LIMIT_BYTES and self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.head is not None:
            self.is_complete = True
            self.is_reusable = self._parser.should_keep_alive()  # the parser forgets it after this call
            self._stop_timer()

    def _fail(self, error: ClientError) -> None:
        self._error = self._error or error
        self.abandon()
        self._wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ends_with_connection(head: Head) -> bool:
    return "content-length" not in head.headers and "chunked" not in head.headers.get("transfer-encoding", "")


class Connection:
    """A kept-alive connection to one server. Not for concurrent use: one exchange at a time.

    Leaving an exchange before its end closes the connection, which tells the server to stop.
    `timeout_s` bounds connecting, and then the whole exchange from the request to the last byte.
    """

    def __init__(
        self, address: Address, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self._headers = {"host": address.authority, "accept-encoding": "identity", **headers}
        self._timeout_s = timeout_s
        self._tls = tls
        self._wire: _Wire | None = None

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = _NONE) -> Head:
        """Send a request and wait for the head of its answer.

        A server may close a kept-alive connection at any time; when it does so before the first byte of the answer,
        the request goes out once more on a fresh one. Raises `Unreachable`, `CutShort`, `Malformed`, `TimedOut`.
        """
        request = self._request(method, path, body, headers)
        if self._wire is not None and not self._wire.is_idle:
            self.close()
        if self._wire is not None:
            wire = self._wire
            try:
                return await self._exchange(wire, request)
            except CutShort:
                if wire.is_begun:
                    raise
        self._wire = await self._connect()
        return await self._exchange(self._wire, request)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The body of the answer to the last `send`, piece by piece as it arrived. Raises as `send` does."""
        wire = self._wire
        if wire is None:
            return
        try:
            while True:
                while (piece := wire.take()) is not None:
                    yield piece
                if wire.is_complete:
                    break
                await wire.changed()
        finally:
            if not wire.is_reusable:
                self.close()

    def close(self) -> None:
        """Close at once; the next `send` connects again."""
        if self._wire is not None:
            self._wire.abandon()
            self._wire = None

    async def _connect(self) -> _Wire:
        address = self.address
        tls = (self._tls or ssl.create_default_context()) if address.is_tls else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, wire = await loop.create_connection(
                    _Wire, address.host, address.port, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
                )
        except TimeoutError:
            raise TimedOut(f"{address} accepted no connection within {self._timeout_s:g} s.") from None
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"The certificate of {address} is not trusted ({error.verify_message}).") from error
        except ssl.SSLError as error:
            raise Unreachable(f"{address} refused TLS ({error.reason or error}); check scheme and port.") from error
        except OSError as error:
            if error.errno in _OURS:
                raise OutOfConnections(f"No more connections can be made from here ({error.strerror}).") from error
            raise Unreachable(f"Nothing answers at {address} ({error.strerror or error}).") from error
        return wire

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        length = {"content-length": str(len(body))} if method == "POST" else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**self._headers, **headers, **length}.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body

    async def _exchange(self, wire: _Wire, request: bytes) -> Head:
        wire.ask(request, self._timeout_s)
        try:
            while wire.head is None:
                await wire.changed()
        except BaseException:
            wire.abandon()
            raise
        return wire.head
