"""An HTTP server of a few lines whose answers a test writes down byte by byte.

A path's answers are a list: each request takes the next, the last one stays. An answer is a list of pieces written one
after the other; an `asyncio.Event` among them is waited for, `CUT` resets the connection.
"""

import asyncio
import json
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CUT = object()
DONE = b"data: [DONE]\n\n"


@dataclass
class Asked:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedServer:
    """`script` maps a path to its answers; `asked` is what came; `gone` is set when a client leaves early."""

    script: dict[str, list[list[Any]]]
    port: int = 0
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _taken: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def bodies(self, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while (asked := await _read(reader)) is not None:
                self.asked.append(asked)
                await self._answer(self._next(asked.path), reader, writer)
        except ConnectionError:
            self.gone.set()
        finally:
            writer.close()

    async def leave(self) -> None:
        """Reset what is still open, and see it closed."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    def _next(self, path: str) -> list[Any]:
        answers = self.script.get(path, [json_answer({"error": {"message": f"no {path} here"}}, 404)])
        index = min(self._taken[path], len(answers) - 1)
        self._taken[path] += 1
        return answers[index]

    async def _answer(self, pieces: list[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            if piece is CUT:
                writer.transport.abort()
                raise ConnectionResetError
            if isinstance(piece, asyncio.Event):
                await self._wait(piece, reader)
            else:
                writer.write(piece)
                await writer.drain()
        if pieces and pieces[-1] == b"":  # an answer that ends with its connection
            writer.close()
            raise ConnectionResetError

    async def _wait(self, event: asyncio.Event, reader: asyncio.StreamReader) -> None:
        told, left = asyncio.create_task(event.wait()), asyncio.create_task(reader.read(1))
        done, waiting = await asyncio.wait([told, left], return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)  # the next to read must find nobody waiting
        if left in done:
            raise left.exception() or ConnectionResetError


@asynccontextmanager
async def scripted(
    script: dict[str, list[list[Any]]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """A running server."""
    server = ScriptedServer(script, scheme="https" if tls else "http")
    listener = await asyncio.start_server(server.serve, "localhost", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.leave()


def head(status: int = 200, content_type: str = "text/event-stream", **headers: str) -> bytes:
    """The head of an answer; without `content_length` it is chunked, with `connection="close"` it ends with it."""
    lines = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if "content-length" not in lines and lines.get("connection") != "close":
        lines["transfer-encoding"] = "chunked"
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *(f"{n}: {v}" for n, v in lines.items()), "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; of nothing: the end."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def json_answer(value: Any, status: int = 200) -> list[bytes]:
    """A whole answer with a JSON body."""
    body = json.dumps(value).encode()
    return [head(status, "application/json", content_length=str(len(body))) + body]


def event(text: str | None = None, finish_reason: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """One event of a streamed chat completion; `usage` is (prompt tokens, completion tokens)."""
    value: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    value["choices"] = [
        {"index": 0, "delta": {"content": text} if text is not None else {}, "finish_reason": finish_reason}
    ]
    if usage is not None:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        value.update(
            choices=[],
            usage={
                **counts,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        )
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def stream(*words: str, prompt_tokens: int = 10) -> list[bytes]:
    """A whole good answer of these words, one event and one chunk each."""
    events = [event(word) for word in words]
    events += [event(finish_reason="stop"), event(usage=(prompt_tokens, len(words))), DONE]
    return [head(), *map(chunk, events), chunk(b"")]


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, path, _ = lines[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, json.loads(body) if body else None)
