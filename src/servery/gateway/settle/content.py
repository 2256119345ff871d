"""What was asked and answered, in the form of the GenAI conventions' messages: for traces whose owner wants prompts in them.

Read from the bytes of any of the APIs, as far as they are text: images and files are named by their type alone, long texts
cut, and what looks like a key is taken out, as are the secrets of deployments.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from servery.gateway.exchange import Client
from servery.upstream.ask import Api, Ask
from servery.upstream.redaction import without, without_keys
from servery.wire.sse import EventCutter, EventTooLong, data_of

MOST_CHARS = 32_768  # of all texts of one attribute together
MOST_BYTES = 1 << 20  # of an answer that is listened to

_Message = dict[str, Any]
# Clients and upstreams may send anything where nobody looked so far; what comes of it must not disturb the exchange.
_ODD = (AttributeError, KeyError, TypeError, RecursionError, ValueError, msgspec.DecodeError, EventTooLong)


def asked_messages(ask: Ask, secrets: Sequence[str]) -> str:
    """`gen_ai.input.messages` of a request, as JSON; empty for one that is not what its API has."""
    try:
        return _written(_asked(msgspec.json.decode(ask.body)), secrets)
    except _ODD:
        return "[]"


def answered_messages(ask: Ask, data: bytes, finish_reasons: Sequence[str], secrets: Sequence[str]) -> str | None:
    """`gen_ai.output.messages` of what the client was sent, as JSON; None where there are no words in it, or none found."""
    texts: dict[int, list[str]] = {}
    try:
        for body in _bodies(ask, data):
            for index, text in _answered(ask.api, body):
                texts.setdefault(index, []).append(text)
        said = {index: "".join(each) for index, each in sorted(texts.items())}
    except _ODD:
        return None
    if not said:
        return None
    reasons = [*finish_reasons, *["unknown"] * len(said)]
    return _written(
        [
            {"role": "assistant", "parts": [_text(text)], "finish_reason": reason}
            for text, reason in zip(said.values(), reasons, strict=False)
        ],
        secrets,
    )


class Overheard:
    """A client, and what it is sent, up to a bound."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pieces: list[bytes] = []
        self._left_bytes = MOST_BYTES

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The client's own."""
        return self._client.headers

    @headers.setter
    def headers(self, headers: list[tuple[str, str]]) -> None:
        self._client.headers = headers

    @property
    def data(self) -> bytes:
        """What was sent so far; whole pieces."""
        return b"".join(self._pieces)

    async def stream(self, events: bytes) -> None:
        """As the client's."""
        self._hear(events)
        await self._client.stream(events)

    def stream_at_once(self, events: bytes) -> bool:
        """As the client's."""
        is_sent = self._client.stream_at_once(events)
        if is_sent:
            self._hear(events)
        return is_sent

    async def end_stream(self) -> None:
        """As the client's."""
        await self._client.end_stream()

    async def whole(self, body: bytes) -> None:
        """As the client's."""
        self._hear(body)
        await self._client.whole(body)

    def keep_alive(self) -> None:
        """As the client's."""
        self._client.keep_alive()

    def _hear(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes >= 0:
            self._pieces.append(data)


def _asked(body: Mapping[str, Any]) -> list[_Message]:
    messages = [_message("system", body[name]) for name in ("system", "instructions") if body.get(name)]
    for name in ("messages", "input", "prompt", "inputs", "query", "documents"):
        given = body.get(name)
        if isinstance(given, list) and any(isinstance(each, dict) and "role" in each for each in given):
            messages += [_turn(each) for each in given if isinstance(each, dict)]
        elif given:
            messages.append(_message("user", given))
    return messages


def _turn(given: Mapping[str, Any]) -> _Message:
    role, content = str(given.get("role", "user")), given.get("content")
    if role == "tool":
        result = {"type": "tool_call_response", "id": given.get("tool_call_id"), "result": _joined(content)}
        return {"role": role, "parts": [result]}
    message = _message(role, content)
    for call in given.get("tool_calls") or ():
        function = call.get("function") or {}
        message["parts"].append(
            {
                "type": "tool_call",
                "id": call.get("id"),
                "name": function.get("name"),
                "arguments": function.get("arguments"),
            }
        )
    return message


def _message(role: str, content: Any) -> _Message:
    return {"role": role, "parts": list(_parts(content))}


def _parts(content: Any) -> Iterator[_Message]:
    for each in content if isinstance(content, list) else [content]:
        if isinstance(each, str):
            yield _text(each)
        elif isinstance(each, dict):
            text = each.get("text")
            yield _text(text) if isinstance(text, str) else {"type": str(each.get("type", "unknown"))}


def _joined(content: Any) -> str:
    return "".join(part.get("content", "") for part in _parts(content))


def _text(text: str) -> _Message:
    return {"type": "text", "content": text}


def _bodies(ask: Ask, data: bytes) -> Iterable[Any]:
    if not ask.is_stream:
        return [msgspec.json.decode(data)] if data else []
    events = [data_of(lines) for lines in EventCutter().feed(data)]
    return [msgspec.json.decode(each) for each in events if each.startswith(b"{")]


def _answered(api: Api, body: Any) -> Iterator[tuple[int, str]]:
    """The texts in an answer, or in an event of one, each with the completion that it is of."""
    if api in (Api.CHAT, Api.COMPLETIONS):
        for choice in body.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or choice
            yield from [(choice.get("index", 0), said[name]) for name in ("content", "text") if said.get(name)]
    elif api is Api.MESSAGES:
        blocks = [*(body.get("content") or ()), body.get("delta") or {}]
        yield from [(0, block["text"]) for block in blocks if block.get("text")]
    elif api is Api.RESPONSES:
        if body.get("type") == "response.output_text.delta":
            yield 0, body["delta"]
        for item in body.get("output") or ():
            yield from [(0, part["text"]) for part in item.get("content") or () if part.get("text")]
    elif api is Api.GENERATE:
        token = body.get("token") or {"text": body.get("generated_text")}
        yield from [(0, text) for text in [token.get("text")] if text]


def _written(messages: list[_Message], secrets: Sequence[str]) -> str:
    left = MOST_CHARS
    for message in messages:
        for part in message["parts"]:
            for name in ("content", "result", "arguments"):
                if isinstance(part.get(name), str):
                    part[name] = _shown(part[name], left, secrets)
                    left = max(0, left - len(part[name]))
    return msgspec.json.encode(messages).decode()


def _shown(text: str, most: int, secrets: Sequence[str]) -> str:
    """Cut behind the search: half a key is found by nobody."""
    clean = without_keys(without(text, secrets))
    return clean if len(clean) <= most else f"{clean[:most]}… ({len(clean) - most} characters more)"
