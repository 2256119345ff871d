"""A server like vLLM's whose model's name picks the fault; a real one, on a socket.

Well, it streams `TEXT` word by word; given the beginning of it as the assistant's last message, or behind the prompt "hi" of
a completion, it goes on from there.
"""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

TEXT = "one two three four five six seven eight"
EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# What goes wrong before the first event, by the model's name.
EARLY = (
    "refuse", "reset", "close", "500", "429", "429-later", "401", "slow-headers", "silent", "only-comments", "html", "json",
    "malformed-first", "error-first", "empty", "bad-length",
)  # fmt: skip
# What goes wrong after three words.
LATE = (
    "stall",
    "stall-with-comments",
    "cut",
    "cut-mid-event",
    "cut-mid-chunk",
    "reset-late",
    "malformed",
    "error",
    "no-done",
    "huge",
)

# What goes wrong with an answer that is not streamed, once it has a head: nothing comes behind it, or not all of it.
WHOLE = ("headers-only", "half")


class Dummy:
    """`begun` is set when a request has come, `left` when a client went away before the end of its answer.

    `held_back` is set when nobody takes what is sent.

    What goes wrong late waits until `heard` is set: the client has read what came before.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.heard = asyncio.Event()
        self.left = asyncio.Event()
        self.held_back = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def hang(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take what comes and say nothing, not even that the connection is there."""
        self.begun.set()
        while await reader.read(1 << 16):
            pass
        self.left.set()
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on a connection."""
        with contextlib.suppress(ConnectionError):
            try:
                body = await _request(reader)
                if body is None:
                    await _send(writer, _whole(b"404 No", b"application/json", b"{}"))
                    return
                model = body["model"]
                self.begun.set()
                await self._answer(model, body, writer, reader)
            except asyncio.IncompleteReadError:  # it went away before it had asked anything
                self.left.set()
            finally:
                writer.close()

    async def _answer(
        self, model: str, body: dict[str, Any], writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> None:
        if model == "flood":
            await _send(writer, EVENT_HEAD)
            while True:
                writer.write(_chunked(_event(_chunk(model, {"content": "x" * (1 << 16)}))))
                try:
                    async with asyncio.timeout(0.1):
                        await writer.drain()
                except TimeoutError:
                    self.held_back.set()
                    await writer.drain()
        if model in EARLY:
            await self._early(model, writer, reader)
            return
        if not body.get("stream"):
            if model in WHOLE:
                await _send(writer, _whole(b"200 OK", b"application/json", b"{" if model == "half" else b"", 100))
                await self._until_gone(reader, writer, b"")
                return
            answer = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [
                {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}}  # fmt: skip
            data = json.dumps(answer).encode()
            await _send(
                writer,
                _whole(b"200 OK", b"application/json", data[: len(data) // 2] if model == "cut" else data, len(data)),
            )
            return
        await _send(writer, EVENT_HEAD)
        is_text = "prompt" in body
        last = {"role": "assistant", "content": body["prompt"].removeprefix("hi")} if is_text else body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        words = TEXT[len(begun) :].split(" ")
        for at, word in enumerate(words):
            if at == 1 and model == "slow-second":
                await asyncio.sleep(0.1)  # within the limit for a stall
            if at == 3 and await self._late(model, writer, reader):
                return
            text = word if at == len(words) - 1 else f"{word} "
            if model == "duplicates":
                await _send(writer, _chunked(_event(_chunk(model, {"content": text}))))
            await _send(writer, _chunked(_event(_text(model, text) if is_text else _chunk(model, {"content": text}))))
            if model == "endless":
                words.append("more")
        await _send(writer, _chunked(_event(_text(model, "", "stop") if is_text else _chunk(model, {}, "stop"))))
        if model == "twice":
            await _send(writer, _chunked(_event(_chunk(model, {}, "stop"))))
        usage = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [],
                 "usage": {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}}  # fmt: skip
        await _send(writer, _chunked(_event(json.dumps(usage).encode())) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def _early(self, model: str, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        error = b'{"error":{"message":"no","type":"x","code":"y"}}'
        whole: dict[str, Callable[[], bytes]] = {
            "close": lambda: b"",
            "500": lambda: _whole(b"500 Oops", b"application/json", error),
            "429": lambda: _whole(b"429 Slow", b"application/json", error),
            "429-later": lambda: _whole(b"429 Slow", b"application/json", error, extra=b"retry-after: 77\r\n"),
            "401": lambda: _whole(b"401 Who", b"application/json", error),
            "html": lambda: _whole(b"200 OK", b"text/html", b"<html>nginx</html>"),
            "json": lambda: _whole(b"200 OK", b"application/json", b"{}"),
            "malformed-first": lambda: EVENT_HEAD + _chunked(b"data: {nonsense\n\n"),
            "error-first": lambda: (
                EVENT_HEAD + _chunked(b'data: {"error":{"message":"no","code":500}}\n\n') + b"0\r\n\r\n"
            ),
            "empty": lambda: EVENT_HEAD + b"0\r\n\r\n",
            "bad-length": lambda: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        }
        if model == "reset":
            _reset(writer)
        elif model in whole:
            await _send(writer, whole[model]())
        else:
            if model != "slow-headers":
                await _send(writer, EVENT_HEAD)
            await self._until_gone(reader, writer, b": ping\n\n" if model == "only-comments" else b"")

    async def _late(self, model: str, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> bool:
        """Whether that was the end."""
        await self.heard.wait()
        whole = _event(_chunk(model, {"content": "four "}))
        if model in ("stall", "stall-with-comments"):
            await self._until_gone(reader, writer, b": ping\n\n" if "comments" in model else b"")
        elif model == "cut-mid-event":
            await _send(writer, _chunked(whole[:20]))
        elif model == "cut-mid-chunk":
            await _send(writer, _chunked(whole)[:-30])
        elif model == "reset-late":
            _reset(writer)
        elif model == "malformed":
            await _send(writer, _chunked(b"data: {nonsense\n\n"))
        elif model == "error":
            await _send(writer, _chunked(b'data: {"error":{"message":"no","code":500}}\n\n') + b"0\r\n\r\n")
        elif model == "no-done":
            await _send(writer, b"0\r\n\r\n")
        elif model == "huge":
            piece = _chunked(b"x" * (1 << 20))
            await _send(writer, _chunked(b'data: {"a":"'))
            for _ in range(64):
                await _send(writer, piece)
        elif model != "cut":
            return False
        return True

    async def _until_gone(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, comment: bytes) -> None:
        while True:
            try:
                async with asyncio.timeout(0.02):
                    assert await reader.read(1) == b""
                self.left.set()
                return
            except TimeoutError:
                if comment:
                    await _send(writer, _chunked(comment))


@contextlib.asynccontextmanager
async def dummy() -> AsyncIterator[Dummy]:
    """One that listens."""
    made = Dummy()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def _request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """What is asked for; None for what is no question to a model."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"post"):
        return None
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body: dict[str, Any] = json.loads(await reader.readexactly(length))
    return body


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _whole(status: bytes, kind: bytes, body: bytes, length: int | None = None, extra: bytes = b"") -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, kind, size, extra, body)


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _chunk(model: str, delta: dict[str, Any], reason: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return json.dumps(
        {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
    ).encode()


def _text(model: str, text: str, reason: str | None = None) -> bytes:
    choices = [{"index": 0, "text": text, "finish_reason": reason}]
    return json.dumps(
        {"id": "x", "object": "text_completion", "created": 1, "model": model, "choices": choices}
    ).encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side's next read fails."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of no time
    writer.transport.abort()
