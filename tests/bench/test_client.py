"""The client reports what came and when, and says of every way to fail which one it was."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from servery.bench.address import Address
from servery.bench.client import Client, Delta, Usage
from servery.bench.connection import PENDING_LIMIT_BYTES, _Wire
from servery.bench.errors import ClientError, CutShort, InBandError, Malformed, TimedOut, Unreachable, WrongStatus
from tests.ports import closed_port
from tests.scripted_server import CUT, DONE, ScriptedServer, chunk, event, head, json_answer, scripted, stream

CHAT = "/v1/chat/completions"
CERTIFICATE = Path(__file__).parent / "localhost.pem"


async def answer(client: Client, request: dict[str, Any] | None = None) -> list[Delta]:
    async with aclosing(client.chat(request or {"model": "m", "messages": []})) as deltas:
        return [delta async for delta in deltas]


async def text(client: Client) -> str:
    return "".join(delta.text for delta in await answer(client))


def with_server(
    script: dict[str, list[list[Any]]], story: Callable[[Client, ScriptedServer], Awaitable[None]], **options: Any
) -> None:
    """Run `story` with a client of a server that follows `script`."""

    async def run() -> None:
        async with scripted(script) as server:
            client = Client(Address.parse(server.url), **options)
            try:
                await story(client, server)
            finally:
                client.close()

    uvloop.run(run())


def test_an_answer_is_its_text_its_reason_and_its_counts() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        before = time.perf_counter()
        deltas = await answer(client, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
        times = [delta.at for delta in deltas]
        assert [delta._replace(at=0) for delta in deltas] == [
            Delta(0, "Hel"),
            Delta(0, "lo"),
            Delta(0, finish_reason="stop"),
            Delta(0, usage=Usage(7, 2, 0)),
        ]
        assert times == sorted(times)
        assert before <= times[0]
        assert times[-1] <= time.perf_counter()
        [asked] = server.asked
        assert (asked.method, asked.path, asked.headers["authorization"]) == ("POST", CHAT, "Bearer secret")
        assert asked.body == {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 3,
            "stream": True,
        }

    with_server({CHAT: [stream("Hel", "lo", prompt_tokens=7)]}, story, api_key="secret")


def test_each_part_has_the_time_of_its_own_arrival() -> None:
    """The server sends the second word only after the test has seen the first."""
    seen = asyncio.Event()
    pieces = [head(), chunk(event("a")), seen, chunk(event("b") + DONE), chunk(b"")]

    async def story(client: Client, server: ScriptedServer) -> None:
        async with aclosing(client.chat({})) as deltas:
            first = await anext(deltas)
            released = time.perf_counter()
            seen.set()
            second = await anext(deltas)
        assert first.at < released < second.at

    with_server({CHAT: [pieces]}, story)


def test_answers_follow_each_other_on_one_connection() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        assert [await text(client) for _ in range(3)] == ["one", "two", "two"]
        assert await client.models() == ["m", "n"]
        assert server.connections == 1

    with_server(
        {CHAT: [stream("one"), stream("two")], "/v1/models": [json_answer({"data": [{"id": "m"}, {"id": "n"}]})]},
        story,
    )


def test_a_connection_closed_while_idle_is_replaced() -> None:
    """The request goes out again: no byte of an answer had come."""

    async def story(client: Client, server: ScriptedServer) -> None:
        assert [await text(client), await text(client)] == ["one", "two"]
        assert server.connections == 2

    with_server({CHAT: [[*stream("one"), CUT], stream("two")]}, story)


def test_leaving_an_answer_closes_the_connection() -> None:
    never = asyncio.Event()

    async def story(client: Client, server: ScriptedServer) -> None:
        async with aclosing(client.chat({})) as deltas:
            assert (await anext(deltas)).text == "a"
        await asyncio.wait_for(server.gone.wait(), 60)
        assert await text(client) == "again"

    with_server({CHAT: [[head(), chunk(event("a")), never], stream("again")]}, story)


def test_a_body_without_length_or_chunks_ends_with_its_connection() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        assert [await text(client), await text(client)] == ["a", "b"]

    body = [head(connection="close"), event("a"), DONE, b""]
    with_server({CHAT: [body, stream("b")]}, story)


def test_keep_alive_comments_and_an_early_100_are_no_part_of_an_answer() -> None:
    pieces = [b"HTTP/1.1 100 Continue\r\n\r\n", head(), chunk(b": ka\n"), chunk(event("a")), chunk(DONE), chunk(b"")]

    async def story(client: Client, server: ScriptedServer) -> None:
        assert [delta.text for delta in await answer(client)] == ["a"]

    with_server({CHAT: [pieces]}, story)


def test_a_finish_reason_is_as_good_an_end_as_done() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        assert await text(client) == "a"

    with_server({CHAT: [[head(), chunk(event("a", "stop")), chunk(b"")]]}, story)


def test_reasoning_is_told_apart_from_the_answer() -> None:
    thought = b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'

    async def story(client: Client, server: ScriptedServer) -> None:
        deltas = await answer(client)
        assert [(delta.reasoning, delta.text) for delta in deltas] == [("hm", ""), ("", "a")]

    with_server({CHAT: [[head(), chunk(thought + event("a") + DONE), chunk(b"")]]}, story)


def test_a_body_that_nobody_reads_is_not_taken_in_without_bound() -> None:
    """The socket is paused above the limit, and goes on when what came was taken."""

    async def run() -> None:
        wire, transport = _Wire(), RecordingTransport()
        wire.connection_made(transport)
        wire.ask(b"GET", 60.0)
        wire.data_received(head() + chunk(b"x" * PENDING_LIMIT_BYTES))
        assert transport.calls == ["write"]
        wire.data_received(chunk(b"yy"))
        assert transport.calls == ["write", "pause_reading"]
        first, second = wire.take(), wire.take()
        assert (first and len(first.data), second and second.data) == (PENDING_LIMIT_BYTES, b"yy")
        assert transport.calls == ["write", "pause_reading", "resume_reading"]
        wire.abandon()
        assert transport.calls == ["write", "pause_reading", "resume_reading", "abort"]

    asyncio.run(run())


class RecordingTransport(asyncio.Transport):
    """Notes which of its methods were called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def write(self, data: object) -> None:
        self.calls.append("write")

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def abort(self) -> None:
        self.calls.append("abort")


ERROR = {
    "error": {"message": "no such model", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
}
IN_BAND = b'data: {"error": {"message": "engine died", "code": 500}}\n\n'


@pytest.mark.parametrize(
    ("pieces", "kind", "message"),
    [
        (json_answer(ERROR, 404), "http_404", "HTTP 404: no such model"),
        (json_answer({"detail": "Not Found"}, 404), "http_404", "HTTP 404: Not Found"),
        ([head(502, "text/html", content_length="9"), b"<p>sorry "], "http_502", "HTTP 502: <p>sorry"),
        ([head(503, content_length="0")], "http_503", "HTTP 503: no message"),
        ([head(), chunk(event("a") + IN_BAND), chunk(b"")], "in_band_error", "engine died"),
        ([head(), chunk(b'data: {"error": "boom"}\n\n'), chunk(b"")], "in_band_error", "boom"),
        ([head(), chunk(event("a")), CUT], "cut_short", "in the middle of its answer"),
        ([head(), chunk(event("a")), chunk(b"")], "cut_short", "without [DONE]"),
        ([head(connection="close"), event("a"), b""], "cut_short", "without [DONE]"),
        ([head(), chunk(DONE), chunk(b"")], "malformed", "neither text nor a finish reason"),
        ([head(content_length="999"), event("a"), CUT], "cut_short", "in the middle of its answer"),
        ([b"HTTP/1.1 200 OK\r\ncont", CUT], "cut_short", "in the middle of its answer"),
        ([CUT], "cut_short", "without an answer"),
        ([b"220 mail.example ESMTP\r\n"], "malformed", "not HTTP/1.1"),
        ([head(), chunk(b"data: {oops\n\n"), chunk(b"")], "malformed", "not a chunk of a completion"),
        ([head(), chunk(b'data: {"choices": 3}\n\n'), chunk(b"")], "malformed", "not a chunk of a completion"),
        (json_answer({"choices": []}), "malformed", "answered with application/json"),
    ],
)
def test_every_failure_has_its_kind_and_its_reason(pieces: list[Any], kind: str, message: str) -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        with pytest.raises(ClientError) as caught:
            await answer(client)
        assert (caught.value.kind, message in str(caught.value)) == (kind, True), str(caught.value)
        assert await text(client) == "fine"  # the next request is not hurt

    with_server({CHAT: [pieces, stream("fine")]}, story)


def test_the_apis_code_and_parameter_are_kept() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        with pytest.raises(WrongStatus) as caught:
            await answer(client)
        assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")

    with_server({CHAT: [json_answer(ERROR, 404)]}, story)


@pytest.mark.parametrize("pieces", [[], [head(), chunk(event("a"))]])
def test_an_answer_that_never_ends_times_out(pieces: list[Any]) -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        with pytest.raises(TimedOut, match=r"within 0\.3 s"):
            await answer(client)
        await asyncio.wait_for(server.gone.wait(), 60)

    with_server({CHAT: [[*pieces, asyncio.Event()]]}, story, timeout_s=0.3)


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with closed_port() as port, pytest.raises(Unreachable, match=f"Nothing answers at http://127.0.0.1:{port}"):
        asyncio.run(Client(Address.parse(f"127.0.0.1:{port}")).models())


def test_tls_is_spoken_and_checked() -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(CERTIFICATE)

    async def run() -> None:
        async with scripted({CHAT: [stream("sealed")]}, tls=ours) as server:
            address = Address.parse(server.url)
            client = Client(address, tls=ssl.create_default_context(cafile=CERTIFICATE))
            assert await text(client) == "sealed"
            client.close()
            with pytest.raises(Unreachable, match="certificate"):
                await text(Client(address))
            with pytest.raises(ClientError):
                await text(Client(Address.parse(server.url.replace("https", "http"))))

    asyncio.run(run())


def test_tls_to_a_plain_port_is_unreachable_and_says_why() -> None:
    async def run() -> None:
        def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        listener = await asyncio.start_server(refuse, "localhost", 0)
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="check scheme and port"):
            await Client(Address.parse(f"https://localhost:{port}")).models()
        listener.close()

    asyncio.run(run())


@pytest.mark.parametrize("body", [[], {"data": [1]}, {"data": None}, "text"])
def test_a_list_of_models_in_another_shape_is_malformed(body: Any) -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        with pytest.raises(Malformed, match="lists its models"):
            await client.models()

    with_server({"/v1/models": [json_answer(body)]}, story)


def test_a_cut_before_the_answer_on_a_fresh_connection_is_not_tried_again() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        with pytest.raises(CutShort):
            await answer(client)
        assert len(server.asked) == 1

    with_server({CHAT: [[CUT]]}, story)


def test_an_error_after_the_first_words_does_not_take_them_back() -> None:
    async def story(client: Client, server: ScriptedServer) -> None:
        async with aclosing(client.chat({})) as deltas:
            assert (await anext(deltas)).text == "a"
            with pytest.raises(InBandError):
                await anext(deltas)

    with_server({CHAT: [[head(), chunk(event("a") + IN_BAND), chunk(b"")]]}, story)
