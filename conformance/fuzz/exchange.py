"""One request on a raw connection, as a client with bad manners sends it, and what came back."""

import asyncio
import contextlib
import enum
from dataclasses import dataclass, field

import httptools

_READ_BYTES = 65536
_SHOWN_BYTES = 1500


class Manners(enum.Enum):
    """What the client does with its connection."""

    WAITS = "sends everything and reads to the end"
    LEAVES = "closes the connection after so many bytes of the answer"
    BREAKS_OFF = "closes the connection after so many bytes of the request"
    HALF_CLOSES = "says that it will send no more, and reads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A request: bytes as they go over the line, and how the client behaves; `after` counts bytes."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    manners: Manners = Manners.WAITS
    after: int = 0

    @property
    def data(self) -> bytes:
        """The whole request. The connection is for this one only."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "host: fuzz", "connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body

    def __str__(self) -> str:
        """For a report: the beginning of what is long."""
        head = "".join(f"\n    {name}: {value[:200]}" for name, value in self.headers)
        cut = "..." if len(self.body) > _SHOWN_BYTES else ""
        body = f"{self.body[:_SHOWN_BYTES]!r}{cut}"
        return f"{self.method} {self.target} ({self.manners.value}: {self.after}){head}\n    {body}"


@dataclass(slots=True)
class Answer:
    """What came back until the end, or until nobody waited any longer; `status` 0: nothing."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    is_awaited: bool = True  # False: the client left, or waited long enough
    lost_by: str = ""  # what the client's system said of the connection


class _Reader:
    """Httptools' callbacks."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self.answer.status = self._parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.answer.body += data

    def on_message_complete(self) -> None:
        self.answer.is_complete = True


async def exchange(host: str, port: int, sending: Sending, patience_s: float) -> Answer:
    """Send and read; a client does not wait longer than `patience_s`. Raises what httptools does for what is no HTTP."""
    reader, writer = await asyncio.open_connection(host, port)
    seen = _Reader()
    try:
        async with asyncio.timeout(patience_s):
            await _talk(sending, reader, writer, seen)
    except TimeoutError:
        seen.answer.is_awaited = False
    except OSError as error:  # a server may close on what it has refused, and the client still be sending
        seen.answer.lost_by = repr(error)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return seen.answer


async def _talk(sending: Sending, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: _Reader) -> None:
    if sending.manners is Manners.BREAKS_OFF:
        writer.write(sending.data[: sending.after])
        await writer.drain()
        seen.answer.is_awaited = False
        return
    writer.write(sending.data)
    if sending.manners is Manners.HALF_CLOSES:
        writer.write_eof()
        seen.answer.is_awaited = False
    received = 0
    while data := await reader.read(_READ_BYTES):
        received += len(data)
        seen.feed(data)
        if sending.manners is Manners.LEAVES and received >= sending.after:
            seen.answer.is_awaited = False
            return
