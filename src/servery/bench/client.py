"""A client of the OpenAI API that notes when each part of an answer arrived; used by `servery bench` and `servery chat`.

What the wire promises is in the API's reference; two rules that are often missed: an event with an `error` key may
come after a good status, and a stream that ends without `[DONE]` and without a finish reason was cut.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic
from typing import Any, NamedTuple

import msgspec
import orjson

from servery import __version__
from servery.bench.address import Address
from servery.bench.connection import Connection, Head
from servery.bench.errors import CutShort, InBandError, Malformed, WrongStatus
from servery.bench.sse import EventReader

BODY_LIMIT_BYTES = 64 << 20
LOADING_S = 120.0  # how long a server may still be loading its model before that is an error
_SHOWN = 300  # characters of an answer that is no JSON, in an error message


class Usage(NamedTuple):
    """What the server counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Delta(NamedTuple):
    """One event of a streamed answer; `at` is when its last byte arrived (seconds of `time.perf_counter`)."""

    at: float
    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _WireUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _WireDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _WireChoice(msgspec.Struct):
    delta: _WireDelta | None = None
    finish_reason: str | None = None


class _WireChunk(msgspec.Struct):
    choices: list[_WireChoice] = []
    usage: _WireUsage | None = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_WireChunk)


class Client:
    """One user of a server: one kept-alive connection, one request at a time."""

    def __init__(
        self,
        address: Address,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        headers = {"user-agent": f"servery/{__version__}"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._connection = Connection(address, headers, timeout_s, tls)

    async def wait_until_ready(self, limit_s: float, pause_s: float = 0.25) -> bool:
        """Wait while the server says on /ready that it is still loading (503); whether that ended in time.

        Servers without a /ready are taken to be ready.
        """
        end = monotonic() + limit_s
        while not await self._is_ready():
            if monotonic() >= end:
                return False
            await asyncio.sleep(pause_s)
        return True

    async def models(self) -> list[str]:
        """The names of the models that the server offers, in its order."""
        answer = await self._json("GET", f"{self.address.api}/models")
        try:
            return [str(model["id"]) for model in answer["data"]]
        except (KeyError, TypeError):
            raise Malformed(f"{self.address} lists its models in a shape that is not the API's.") from None

    async def first_model(self) -> str:
        """The name of the first model that the server offers; raises `Malformed` when it lists none."""
        names = await self.models()
        if not names:
            raise Malformed(f"{self.address} lists no model; name one with --model.")
        return names[0]

    async def count_tokens(self, model: str, messages: list[dict[str, str]]) -> int:
        """How many tokens `messages` are as a prompt. Raises `WrongStatus` where the server offers no /tokenize."""
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        answer = await self._json("POST", f"{self.address.root}/tokenize", body)
        if not isinstance(answer, dict) or not isinstance(answer.get("count"), int):
            raise Malformed("The answer of /tokenize has no count.")
        return int(answer["count"])

    async def metrics(self) -> str:
        """The server's metrics in Prometheus' text format."""
        return (await self._exchange("GET", f"{self.address.root}/metrics")).decode("utf-8", "replace")

    async def chat(self, request: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        """Stream the answer to a chat completion; leaving early closes the connection, and the server stops.

        Raises `Unreachable`, `WrongStatus`, `InBandError`, `CutShort`, `Malformed`, `TimedOut`.
        """
        body = orjson.dumps({**request, "stream": True})
        head = await self._begin("POST", f"{self.address.api}/chat/completions", body)
        if "text/event-stream" not in head.headers.get("content-type", ""):
            found = head.headers.get("content-type", "no content type")
            await self._rest()
            raise Malformed(f"A stream was asked for; the server answered with {found}.")
        reader, is_finished, is_answer = EventReader(), False, False
        async with aclosing(self._connection.pieces()) as pieces:
            async for piece in pieces:
                for event in reader.feed(piece):
                    if event.data == b"[DONE]":
                        is_finished = True
                        continue
                    delta = _delta(event.at, event.data)
                    is_finished = is_finished or delta.finish_reason is not None
                    is_answer = is_answer or bool(delta.finish_reason or delta.text or delta.reasoning)
                    yield delta
        if not is_finished:
            raise CutShort("The stream ended without [DONE] and without a finish reason.")
        if not is_answer:
            raise Malformed("The stream had neither text nor a finish reason: that is no answer.")

    async def post(self, endpoint: str, request: dict[str, Any]) -> Any:
        """The whole JSON answer of an endpoint of the API, such as `completions`. Raises as `chat` does."""
        return await self._json("POST", f"{self.address.api}/{endpoint}", request)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    async def _is_ready(self) -> bool:
        try:
            await self._exchange("GET", f"{self.address.root}/ready")
        except WrongStatus as error:
            return error.status != 503
        return True

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = await self._exchange(method, path, orjson.dumps(body) if body is not None else b"")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise Malformed(f"The answer of {path} is no JSON: {_shown(data)}") from None

    async def _exchange(self, method: str, path: str, body: bytes = b"") -> bytes:
        await self._begin(method, path, body)
        return await self._rest()

    async def _begin(self, method: str, path: str, body: bytes) -> Head:
        head = await self._connection.send(method, path, body, _JSON if body else {})
        if not 200 <= head.status < 300:
            raise _wrong_status(head, await self._rest())
        return head

    async def _rest(self) -> bytes:
        data = bytearray()
        async with aclosing(self._connection.pieces()) as pieces:
            async for piece in pieces:
                data += piece.data
                if len(data) > BODY_LIMIT_BYTES:
                    raise Malformed(f"The answer is longer than {BODY_LIMIT_BYTES} bytes.")
        return bytes(data)


_JSON = {"content-type": "application/json"}


def _delta(at: float, data: bytes) -> Delta:
    try:
        chunk = _CHUNK.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Malformed(f"An event is not a chunk of a completion ({error}): {_shown(data)}") from None
    if chunk.error is not None:
        raise InBandError(_words(chunk.error))
    choice = chunk.choices[0] if chunk.choices else _WireChoice()
    part = choice.delta or _WireDelta()
    return Delta(
        at=at,
        text=part.content or "",
        reasoning=part.reasoning_content or part.reasoning or "",
        finish_reason=choice.finish_reason,
        usage=_usage(chunk.usage),
    )


def _usage(usage: _WireUsage | None) -> Usage | None:
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    return Usage(usage.prompt_tokens, usage.completion_tokens, (details.cached_tokens or 0) if details else 0)


def _wrong_status(head: Head, body: bytes) -> WrongStatus:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return WrongStatus(head.status, _shown(body) or "no message")
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    code, param = (error.get("code"), error.get("param")) if isinstance(error, dict) else (None, None)
    return WrongStatus(head.status, _words(error), code and str(code), param and str(param))


def _words(error: Any) -> str:
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return str(message or error)[:_SHOWN]


def _shown(data: bytes) -> str:
    return data[:_SHOWN].decode("utf-8", "replace").strip()
