"""A server that speaks bytes: a test says, connection by connection, what is read and what is written."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from servery.http.url import Origin, TlsFiles, parse_url

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


class Gone(Exception):
    """The client has left."""


@dataclass
class Peer:
    """One client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    asked: list[Asked]

    async def request(self) -> Asked:
        """The next request; raises `Gone` when the client closes instead."""
        try:
            asked = await self._read()
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Gone from None
        self.asked.append(asked)
        return asked

    async def send(self, *pieces: bytes) -> None:
        """Write, each piece for itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close with RST, as a process that is killed with unread data does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
        self.writer.transport.abort()
        raise Gone

    def close(self) -> None:
        """Close in good order."""
        raise Gone

    async def gone(self) -> None:
        """Wait until the client has closed its side, dropping what it still sends."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    async def _read(self) -> Asked:
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head[:-4].split(b"\r\n")
        headers = [(name, value) for name, _, value in (field.partition(b": ") for field in rest)]
        by_name = {name.lower(): value for name, value in headers}
        if by_name.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(by_name.get(b"content-length", b"0")))
        return Asked(line, headers, body)


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class RawServer:
    """A running server. `asked` is all that came, `connections` how many there were, `open` how many there are."""

    script: Script
    port: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    tls: TlsFiles = field(default_factory=TlsFiles)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def origin(self) -> Origin:
        return parse_url(f"{self.scheme}://{self.host}:{self.port}", self.tls).origin

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.append(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self.script(Peer(reader, writer, self.connections, self.asked))
        except (Gone, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def leave(self) -> None:
        """End what still runs. Raises what went wrong in a script."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # also what waits for a client to take the rest
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result


@asynccontextmanager
async def serving(script: Script, context: ssl.SSLContext | None = None, **more: object) -> AsyncIterator[RawServer]:
    """A server that runs `script` for each connection."""
    server = RawServer(script, **{"scheme": "https" if context else "http", **more})  # type: ignore[arg-type]
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.leave()


def always(*answer: bytes) -> Script:
    """Every request gets these pieces for an answer."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*answer)

    return script


def once(*answer: bytes) -> Script:
    """The first request gets these pieces, then the connection is closed in good order."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*answer)

    return script


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; of nothing: the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has no event of its own."""
    while not condition():  # noqa: ASYNC110 - the condition has no event to set
        await asyncio.sleep(0.001)
