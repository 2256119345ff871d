"""One request on a connection of its own, by a client that reads at once, slowly, or leaves before the end."""

import asyncio
import enum
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic

import httptools

_PIECE_BYTES = 1 << 16
# A slow reader's: so little that the server has to wait for it.
_SLOW_PIECE_BYTES = 512
_SLOW_PAUSE_S = 0.03
_SLOW_BUFFER_BYTES = 4_096


class Temper(enum.Enum):
    """What a client is like."""

    PATIENT = "patient"
    SLOW = "slow"
    LEAVES = "leaves"  # closes its connection
    RESETS = "resets"  # has its connection reset


@dataclass(slots=True)
class Heard:
    """What came back. `is_complete`: the answer's end, as HTTP counts; `lost` says how the connection broke before it."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    has_left: bool = False
    lost: str | None = None
    took_s: float = 0.0


class Client:
    """Clients of the server at `port` of this machine. No answer takes longer than `limit_s`."""

    def __init__(self, port: int, limit_s: float) -> None:
        self._port = port
        self._limit_s = limit_s

    async def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        temper: Temper = Temper.PATIENT,
        leaves_after_s: float = 0.0,
    ) -> Heard:
        """The answer to a POST, or to a GET without a body, as far as it came."""
        heard, began_s = _Answer(), monotonic()
        lost: str | None = None
        try:
            async with asyncio.timeout(self._limit_s):
                await self._exchange(_request(path, body, headers or {}), heard, temper, leaves_after_s)
        except TimeoutError:
            lost = f"no end within {self._limit_s:g} s"
        except (OSError, httptools.HttpParserError) as error:
            lost = repr(error)
        found = heard.found
        found.lost = lost
        if lost is None and not (found.is_complete or found.has_left):
            found.lost = "the server closed the connection before the end of its answer"
        found.took_s = monotonic() - began_s
        return found

    async def _exchange(self, request: bytes, heard: "_Answer", temper: Temper, leaves_after_s: float) -> None:
        sock = socket.socket()
        if temper is Temper.SLOW:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER_BYTES)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            limit = _SLOW_PIECE_BYTES if temper is Temper.SLOW else _PIECE_BYTES
            reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(request)
            if temper in (Temper.LEAVES, Temper.RESETS):
                await _read_until(reader, heard, leaves_after_s)
                if temper is Temper.RESETS and not heard.found.is_complete:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                await _read(reader, heard, is_slow=temper is Temper.SLOW)
        finally:
            writer.transport.abort()


class _Answer:
    """Takes in the bytes of one; the parser calls the `on_` methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._found = Heard()

    @property
    def found(self) -> Heard:
        """What came until now."""
        self._found.body = bytes(self._body)
        return self._found

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    @property
    def is_complete(self) -> bool:
        return self._found.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._found.status, self._found.headers = self._parser.get_status_code(), self._headers

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._found.is_complete = True

    def leave(self) -> None:
        self._found.has_left = True


async def _read(reader: asyncio.StreamReader, heard: _Answer, *, is_slow: bool) -> None:
    while not heard.is_complete:
        data = await reader.read(_SLOW_PIECE_BYTES if is_slow else _PIECE_BYTES)
        if not data:
            return
        heard.feed(data)
        if is_slow and not heard.is_complete:
            await asyncio.sleep(_SLOW_PAUSE_S)


async def _read_until(reader: asyncio.StreamReader, heard: _Answer, leaves_after_s: float) -> None:
    try:
        async with asyncio.timeout(leaves_after_s):
            await _read(reader, heard, is_slow=False)
    except TimeoutError:
        heard.leave()


def _request(path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    named = {"host": "127.0.0.1", "connection": "close", **headers}
    if body is not None:
        named = {"content-type": "application/json", **named, "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b"")
