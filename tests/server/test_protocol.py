import asyncio
import gc
import json
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest

from servery.server import protocol
from servery.server.interrupt import Interrupt
from servery.server.listener import Listener
from servery.server.reply import Reply
from servery.server.service import Exchange
from servery.upstream.upstream import Chunk
from servery.wire.errors import failed
from tests.server.fakes import FakeUpstream, Step, make_app

Story = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_connection(story: Story, *script: Step) -> None:
    """Run `story` with a connection to a server that speaks our protocol and answers by `script`."""

    async def run() -> None:
        listener = Listener(make_app(FakeUpstream(*script)).answer)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            serving = asyncio.create_task(listener.serve(sock))
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            try:
                async with asyncio.timeout(60):
                    await story(reader, writer)
            finally:
                writer.close()
                listener.end()
                await serving
            assert listener.connections == 0

    asyncio.run(run())


async def answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and error code of the answer after which the server closes."""
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return int(head.split(b" ")[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GARBAGE\r\n\r\n", (400, "invalid_http")),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", (400, "invalid_http")),
        (b"GET /h\xff HTTP/1.1\r\n\r\n", (400, "invalid_http")),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", (431, "head_too_large")),
    ],
)
def test_what_is_no_bounded_http_gets_one_json_answer(sent: bytes, expected: tuple[int, str]) -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await answer(reader) == expected

    with_connection(story)


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nhost:"])
def test_a_head_that_does_not_come_is_a_408(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.02)

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        assert await answer(reader) == (408, "request_timeout")

    with_connection(story)


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_another(
    before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of it had begun the time anew: 32 KiB of head, one byte at a time, held a connection for days."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.05)

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.005)

        writer.write(before + b"GET /health HTTP/1.1\r\nhost: ")
        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(5):
                said = await reader.read()
        finally:
            dripping.cancel()
        assert b"HTTP/1.1 408 " in said

    with_connection(story)


def test_half_a_head_behind_a_request_does_not_break_into_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's time runs out while the answer is under way: it ends as it should, and then the connection does."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.02)
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    release = asyncio.Event()

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head % len(body) + body)
        await reader.readuntil(b"first")
        writer.write(b"GET /health HTTP/1.1\r\nhost:")
        asyncio.get_running_loop().call_later(0.1, release.set)
        rest = await reader.read()
        assert b"408" not in rest
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    with_connection(story, Chunk(data=b"data: first\n\n"), release, Chunk(data=b"data: last\n\n"))


def test_a_connection_carries_many_requests() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["status"] == "ok"

    with_connection(story)


def test_head_of_a_get_has_no_body() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HEAD /health HTTP/1.1\r\nconnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert (head.split(b" ")[1], body) == (b"200", b"")

    with_connection(story)


def test_a_client_that_sends_a_large_body_first_still_reads_why_it_was_refused() -> None:
    """Refused by its head alone; were the connection closed at once, sending on would reset it, the answer unread."""
    size = 3_000_000

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        writer.write(head % size)
        await asyncio.sleep(0.05)  # until it has been answered
        for _ in range(size // 100_000):
            writer.write(b"x" * 100_000)
            await writer.drain()
        assert await answer(reader) == (415, "unsupported_media_type")

    with_connection(story)


def test_what_follows_the_last_answer_is_no_request() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GARBAGE\r\n\r\n")
        assert await answer(reader) == (400, "invalid_http")
        writer.write(b"GET /health HTTP/1.1\r\n\r\nGARBAGE")
        writer.write_eof()
        assert await reader.read() == b""

    with_connection(story)


def test_a_stream_that_ends_with_an_error_is_cut_and_not_ended(caplog: pytest.LogCaptureFixture) -> None:
    """A final chunk would say that everything has come, and the connection would be kept."""
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        _, _, chunked = (await reader.read()).partition(b"\r\n\r\n")
        *_, last, rest = chunked.split(b"\r\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["message"] == "broken"
        assert rest == b""

    with_connection(story, Chunk(data=b"data: {}\n\n"), failed("broken"))
    # That the attempt failed is told; nothing broke in telling the client.
    assert [record.levelname for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_requests_with_one_head_are_answered_each_by_its_own_body() -> None:
    """The second head is known by the first; the third is another, and comes in two pieces like the fourth."""

    def ask(content: str, more: bytes = b"") -> bytes:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n%bcontent-type: application/json\r\n" % more
        return head + b"content-length: %d\r\n\r\n" % len(body) + body

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for sent in (
            ask("a"),
            ask("another"),
            ask("a", b"x-request-id: mine\r\n"),
            ask("b", b"x-request-id: mine\r\n"),
        ):
            half = len(sent) // 2 if b"mine" in sent else len(sent)
            writer.write(sent[:half])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(sent[half:])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert head.startswith(b"HTTP/1.1 200 ")
            assert (b"x-request-id: mine" in head) is (b"mine" in sent)
            assert json.loads(await reader.readexactly(length))["object"] == "chat.completion"

    with_connection(story, *(Chunk(data=b'{"object":"chat.completion"}'),))


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_a_request_made_is_freed_when_it_is_over_without_a_search_for_rings(is_stream: bool) -> None:
    """Rings of 31 objects were left by each request: the search for them was a tenth of the gateway's time."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": is_stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    end = b"0\r\n\r\n" if is_stream else b"told"

    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(end)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [each for each in made() if id(each) not in earlier] == []

    def made() -> list[object]:
        return [each for each in gc.get_objects() if type(each) in (Exchange, Interrupt, Reply)]

    gc.collect()
    gc.disable()
    held = made()  # by whoever ran before in this process
    earlier = set(map(id, held))
    try:
        with_connection(story, Chunk(data=b'data: "told"\n\n' if is_stream else b"told", tokens=1))
    finally:
        gc.enable()
