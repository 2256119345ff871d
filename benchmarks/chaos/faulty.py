"""An API of somebody else's that fails by chance: before its answer, in the middle of it, or without a word.

Well, it streams `TEXT` word by word, by chat or completions; given the beginning as the assistant's last message it goes on
from there, as vLLM does.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness."
_WORDS = TEXT.split(" ")
_PACE_S = 0.01
_GONE_S = 30.0
EARLY = (
    "refuse", "close", "reset", "500", "503", "429", "429-later", "401", "html", "malformed", "error-event", "silent",
    "slow-head",
)  # fmt: skip
LATE = ("cut", "cut-in-event", "reset-late", "malformed-late", "error-late", "no-done", "stall", "duplicate", "huge")
_STATUS = {"500": b"500 Oops", "503": b"503 Busy", "429": b"429 Slow", "429-later": b"429 Slow", "401": b"401 Who"}


class Faulty:
    """`share` of the answers fail. `faults` counts which; `under_way` are the requests that are being answered."""

    def __init__(self, chance: random.Random, share: float) -> None:
        self._chance = chance
        self._share = share
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.under_way = 0
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator["Faulty", None]:
        """Listens inside, at `port`."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while (asked := await _request(reader)) is not None:
                    self.under_way += 1
                    try:
                        if not await self._answer(*asked, reader, writer):
                            return
                    finally:
                        self.under_way -= 1
        finally:
            writer.close()

    async def _answer(
        self, path: str, body: dict[str, Any] | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection can be used again."""
        if body is None:
            await _send(writer, _whole(b"200 OK", b"{}"))
            return True
        self.requests += 1
        if not path.endswith(_PATHS):
            await _send(writer, _whole(b"404 Not Found", _NO_SUCH_PATH))
            return True
        fault = self._chance.choice(EARLY + LATE) if self._chance.random() < self._share else ""
        if fault:
            self.faults[fault] += 1
        if fault in EARLY:
            await _early(fault, reader, writer)
            return False
        form = _Form(path, body)
        if not body.get("stream"):
            data = form.whole()
            await _send(writer, _whole(b"200 OK", data if not fault else data[:20], len(data)))
            return not fault
        return await self._stream(form, fault, reader, writer)

    async def _stream(
        self, form: "_Form", fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        await _send(writer, _EVENT_HEAD)
        words = form.words
        breaks_at = self._chance.randrange(1, len(words)) if fault and len(words) > 1 else None
        for at, word in enumerate(words):
            if at == breaks_at and await _late(fault, form.event(word), reader, writer):
                return False
            await asyncio.sleep(_PACE_S)
            await _send(writer, _chunk(form.event(word)))
        await _send(writer, _chunk(form.end()) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


class _Form:
    """An answer in the shape of the API that was asked."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self._is_chat = path.endswith("/chat/completions")
        self._model = body["model"]
        rest = TEXT[_said(body, is_chat=self._is_chat) :].split(" ")
        self.words = [word if at == len(rest) - 1 else f"{word} " for at, word in enumerate(rest)]

    def event(self, text: str) -> bytes:
        """One word."""
        choice = {"delta": {"content": text}} if self._is_chat else {"text": text}
        return self._event([{"index": 0, **choice, "finish_reason": None}])

    def end(self) -> bytes:
        """The reason, and the count."""
        choice: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        counted = json.dumps({**self._frame(), "choices": [], "usage": self._usage()}).encode()
        return self._event([{"index": 0, **choice, "finish_reason": "stop"}]) + b"data: " + counted + b"\n\n"

    def whole(self) -> bytes:
        """All of it."""
        text = "".join(self.words)
        said = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": "stop"}
        name = "chat.completion" if self._is_chat else "text_completion"
        return json.dumps({**self._frame(), "object": name, "choices": [choice], "usage": self._usage()}).encode()

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        return b"data: " + json.dumps({**self._frame(), "choices": choices}).encode() + b"\n\n"

    def _frame(self) -> dict[str, Any]:
        name = "chat.completion.chunk" if self._is_chat else "text_completion"
        return {"id": "x", "object": name, "created": 1, "model": self._model}

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 7, "completion_tokens": len(self.words), "total_tokens": 7 + len(self.words)}


def _said(body: dict[str, Any], *, is_chat: bool) -> int:
    """How many characters of `TEXT` there are already: as the assistant's last message, or at the end of the prompt."""
    if is_chat:
        last = body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        return len(begun) if isinstance(begun, str) and TEXT.startswith(begun) else 0
    prompt = str(body["prompt"])
    return next(size for size in range(len(TEXT), -1, -1) if prompt.endswith(TEXT[:size]))


_PATHS = ("/chat/completions", "/completions")
_NO_SUCH_PATH = b'{"error":{"message":"no such path","type":"invalid_request_error","code":"not_found"}}'
_EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ERROR_EVENT = b'data: {"error":{"message":"no","type":"server_error","code":500}}\n\n'


async def _early(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    error = b'{"error":{"message":"no","type":"server_error","code":"faulty"}}'
    if fault == "reset":
        _reset(writer)
    elif fault in _STATUS:
        extra = b"retry-after: 2\r\n" if fault == "429-later" else b""
        await _send(writer, _whole(_STATUS[fault], error, extra=extra))
    elif fault == "html":
        await _send(writer, _whole(b"200 OK", b"<html>a proxy</html>", kind=b"text/html"))
    elif fault == "malformed":
        await _send(writer, _EVENT_HEAD + _chunk(b"data: {nonsense\n\n"))
    elif fault == "error-event":
        await _send(writer, _EVENT_HEAD + _chunk(_ERROR_EVENT) + b"0\r\n\r\n")
    elif fault in ("silent", "slow-head"):
        if fault == "silent":
            await _send(writer, _EVENT_HEAD)
        await _until_gone(reader)


async def _late(fault: str, event: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether that was the end."""
    if fault == "cut-in-event":
        await _send(writer, _chunk(event[:20]))
    elif fault == "reset-late":
        _reset(writer)
    elif fault == "malformed-late":
        await _send(writer, _chunk(b"data: {nonsense\n\n"))
    elif fault == "error-late":
        await _send(writer, _chunk(_ERROR_EVENT) + b"0\r\n\r\n")
    elif fault == "no-done":
        await _send(writer, b"0\r\n\r\n")
    elif fault == "stall":
        await _until_gone(reader)
    elif fault == "huge":
        for _ in range(64):
            await _send(writer, _chunk(b"x" * (1 << 20)))
    return fault != "duplicate"


async def _until_gone(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GONE_S):
            await reader.read(1)


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any] | None] | None:
    """Path and body, None for a GET's; None when nobody asks any more."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ")
    fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    return path, json.loads(body) if method == "POST" else None


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _whole(
    status: bytes, body: bytes, length: int | None = None, *, kind: bytes = b"application/json", extra: bytes = b""
) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, kind, size, extra, body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
