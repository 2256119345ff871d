"""Requests whose head comes before their body: a head that is known is taken, a parser reads every other."""

import asyncio
from typing import Any

import pytest

from servery.server.outlet import Outlet
from servery.server.protocol import HttpProtocol
from servery.server.request import Line
from servery.server.types import Receive, Scope

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nConnection: keep-alive\r\nContent-Length: %d\r\n%b\r\n"


class _Told:
    """What a connection's application is told, of one request after the other."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[tuple[bytes, bytes]], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, outlet: Outlet, line: Line | None = None) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body, more = body + event["body"], event["more_body"]
        self.requests.append((scope["headers"], body))
        outlet.begin(200, [("content-length", "2")])
        await outlet.write(b"ok", is_last=True)


class _Counted:
    def opened(self, connection: HttpProtocol) -> None:
        pass

    def closed(self, connection: HttpProtocol) -> None:
        pass


class _Pipe(asyncio.Transport):
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _told(reads: list[bytes], *, is_known: bool) -> tuple[Any, int, bool, bool]:
    """What comes of these reads behind a first request; with `is_known` off, a parser reads every head."""
    told, pipe = _Told(), _Pipe()
    connection = HttpProtocol(told, asyncio.get_running_loop(), _Counted())
    connection.connection_made(pipe)
    for data in reads:
        if not is_known:
            connection._known = None
        connection.data_received(data)
        for _ in range(4):
            await asyncio.sleep(0)
    statuses = pipe.sent.count(b"HTTP/1.1 200")
    found = told.requests, statuses, b" 400 " in pipe.sent, pipe.is_closed
    connection.connection_lost(None)
    return found


@pytest.mark.parametrize(
    "second",
    [
        HEAD % (5, b"") + b"other",
        HEAD % (11, b"") + b"hello world",
        HEAD % (0, b""),
        HEAD % (3, b"") + b"abc" + HEAD % (2, b"") + b"de",  # and another
        HEAD % (3, b"") + b"abc" + b"\r\nGARBAGE\r\n\r\n",
        HEAD % (2, b"connection: close\r\n") + b"ab",
        HEAD % (2, b"x: y\r\n") + b"ab",  # another head
        HEAD % (4, b"") + b"\r\n\r\n",
        HEAD.replace(b"%d", b"+%d") % (5, b"") + b"other",
        HEAD % (9, b"") + b"not all",
        HEAD % (5, b"transfer-encoding: chunked\r\n") + b"0\r\n\r\n",
    ],
)
def test_a_known_head_says_what_a_parser_reads_wherever_the_request_is_split(second: bytes) -> None:
    """In two reads, at every byte; the first request is whole, or its head comes before its body."""
    first = HEAD % (5, b"") + b"12345"
    end = first.index(b"\r\n\r\n") + 4

    async def compare() -> None:
        for learnt in ([first], [first[:end], first[end:]]):
            for at in range(1, len(second) + 1):
                reads = [*learnt, *filter(None, (second[:at], second[at:])), *learnt]
                assert await _told(reads, is_known=True) == await _told(reads, is_known=False), (learnt, at)

    asyncio.run(compare())


@pytest.mark.parametrize("at", [0, 3])
def test_a_head_that_came_before_its_body_is_not_parsed_again(at: int) -> None:
    async def story() -> None:
        told, pipe = _Told(), _Pipe()
        connection = HttpProtocol(told, asyncio.get_running_loop(), _Counted())
        connection.connection_made(pipe)
        end = len(HEAD % (5, b"")) + at
        for body in (b"12345", b"other", b"third"):
            if body != b"12345":
                connection._parser = None  # is not asked
            data = HEAD % (5, b"") + body
            for read in (data[:end], data[end:]):
                connection.data_received(read)
                await asyncio.sleep(0)
            for _ in range(4):
                await asyncio.sleep(0)
        assert [body for _, body in told.requests] == [b"12345", b"other", b"third"]
        connection.connection_lost(None)

    asyncio.run(story())
