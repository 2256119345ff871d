"""One side of `benchmarks.http_client`, alone in its process: the server, or one client under load.

python -m benchmarks.http_client_load serve
python -m benchmarks.http_client_load CLIENT ADDRESS KIND CONCURRENCY SECONDS

Imports of clients happen where they are used: this runs with any Python that has uvloop and the client.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, cast

import uvloop

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 590}]}).encode()  # 657 bytes
ANSWER = json.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": "y" * 500}}]}).encode()  # 575 bytes
EVENT = b"data: " + json.dumps({"choices": [{"delta": {"content": "z" * 200}}]}).encode() + b"\n\n"  # 258 bytes
EVENTS = 32
GAP_S = 0.005
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-" + "k" * 48}
ONCE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)

Request = Callable[[], Awaitable[int]]  # sends one request, reads its answer, tells its bytes


class Server(asyncio.Protocol):
    """Answers at once, or with a stream of events, a fixed time apart."""

    streams: "dict[Server, int]"

    def __init__(self, streams: "dict[Server, int]") -> None:
        self.streams = streams
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """A request, whole or in parts; its body's length is known."""
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if separator and len(body) >= len(BODY):
            self._data = body[len(BODY) :]
            if b"/stream" in head[:20]:
                self.transport.write(STREAM)
                self.streams[self] = EVENTS
            else:
                self.transport.write(ONCE)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self.streams.pop(self, None)


async def serve() -> None:
    """Serve until killed; the first line of the output is the address."""
    loop = asyncio.get_running_loop()
    streams: dict[Server, int] = {}
    server = await loop.create_server(lambda: Server(streams), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    due = loop.time()
    while True:
        due = max(due + GAP_S, loop.time())
        await asyncio.sleep(due - loop.time())
        for stream, left in list(streams.items()):
            if left:
                stream.transport.write(CHUNK)
                streams[stream] = left - 1
            else:
                stream.transport.write(b"0\r\n\r\n")
                del streams[stream]


def bare(address: str, path: str, stack: AsyncExitStack) -> Request:
    """No client: a socket per coroutine, bytes out and bytes in. What the kernel and the event loop cost."""
    host, _, port = address.removeprefix("http://").partition(":")
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, **HEADERS}.items())
    request = f"POST {path} HTTP/1.1\r\n{lines}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
    whole = len(ONCE) if path == "/once" else len(STREAM) + EVENTS * len(CHUNK) + 5

    class Pipe(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self.missing -= len(data)
            if not self.missing:
                self.answered.set_result(None)

        async def ask(self) -> int:
            self.missing = whole
            self.answered = asyncio.get_running_loop().create_future()
            self.transport.write(request)
            await self.answered
            return whole

    idle: list[Pipe] = []

    async def ask() -> int:
        if idle:
            pipe = idle.pop()
        else:
            transport, pipe = await asyncio.get_running_loop().create_connection(Pipe, host, int(port))
            stack.callback(transport.abort)
        size = await pipe.ask()
        idle.append(pipe)
        return size

    return ask


def servery(address: str, path: str, stack: AsyncExitStack) -> Request:
    """`servery.http`, body as it comes."""
    from servery.http.client import HttpClient
    from servery.http.limits import Deadlines
    from servery.http.url import parse_url

    http, origin, deadlines = HttpClient(), parse_url(address).origin, Deadlines(first_piece_s=60, total_s=600)
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    stack.push_async_callback(http.aclose)

    async def ask() -> int:
        response = await http.request(origin, "POST", path, headers, BODY, deadlines=deadlines)
        size = 0
        while piece := await response.piece():
            size += len(piece)
        return size

    return ask


def aiohttp(address: str, path: str, stack: AsyncExitStack) -> Request:
    """The client of aiohttp, body as it comes."""
    import aiohttp  # type: ignore[import-not-found,unused-ignore]

    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
    stack.push_async_callback(session.close)

    async def ask() -> int:
        async with session.post(address + path, data=BODY, headers=HEADERS) as response:
            size = 0
            async for piece in response.content.iter_any():
                size += len(piece)
            return size

    return ask


def httpx(address: str, path: str, stack: AsyncExitStack, module: str = "httpx") -> Request:
    """httpx, or httpx2."""
    library: Any = __import__(module)
    limits = library.Limits(max_connections=None, max_keepalive_connections=None)
    client = library.AsyncClient(limits=limits, timeout=60)
    stack.push_async_callback(client.aclose)

    async def ask() -> int:
        call: AbstractAsyncContextManager[Any] = client.stream("POST", address + path, content=BODY, headers=HEADERS)
        async with call as response:
            size = 0
            async for piece in response.aiter_raw():
                size += len(piece)
            return size

    return ask


def httpx2(address: str, path: str, stack: AsyncExitStack) -> Request:
    """httpx2, the line that OpenAI's client uses."""
    return httpx(address, path, stack, "httpx2")


CLIENTS = {"bare": bare, "servery": servery, "aiohttp": aiohttp, "httpx2": httpx2, "httpx": httpx}


async def load(client: str, address: str, kind: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Ask from `concurrency` coroutines. Figures of the seconds after the first fifth, which warms up."""
    async with AsyncExitStack() as stack:
        ask = CLIENTS[client](address, f"/{kind}", stack)
        whole = len(ANSWER) if kind == "once" else EVENTS * len(EVENT)
        asked, until = 0, time.perf_counter() + 1.2 * seconds

        async def keep_asking() -> None:
            nonlocal asked
            while time.perf_counter() < until:
                size = await ask()
                if client != "bare" and size != whole:
                    raise RuntimeError(f"{client} read {size} bytes of {whole}")
                asked += 1

        tasks = [asyncio.ensure_future(keep_asking()) for _ in range(concurrency)]
        await asyncio.sleep(0.2 * seconds)
        before, cpu, wall = asked, time.process_time(), time.perf_counter()
        await asyncio.sleep(0.9 * seconds)
        requests, cpu, wall = asked - before, time.process_time() - cpu, time.perf_counter() - wall
        await asyncio.gather(*tasks)
        return {
            "requests_per_s": requests / wall,
            "cpu_us_per_request": 1e6 * cpu / requests,
            "core_share": cpu / wall,
        }


def main() -> None:
    """What the command line says."""
    if sys.argv[1] == "serve":
        uvloop.run(serve())
    client, address, kind, concurrency, seconds = sys.argv[1:]
    print(json.dumps(uvloop.run(load(client, address, kind, int(concurrency), float(seconds)))))


if __name__ == "__main__":
    main()
