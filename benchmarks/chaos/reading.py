"""What an answer says, by each API: its text, whether it was told to be whole, the error, the tokens counted. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_EVENT = b"data: "
_DONE = b"[DONE]"


@dataclass(slots=True)
class Told:
    """What a client was told. `usage` are tokens of the prompt and of the answer, None where they were not counted."""

    text: str = ""
    is_ended: bool = False
    error: str | None = None
    usage: tuple[int, int] | None = None


def read(api: str, body: bytes, *, is_stream: bool, status: int) -> Told:
    """An answer, perhaps only its beginning; raises `ValueError` for one that is not of that API."""
    told = Told()
    if status != 200:
        told.error = _code(orjson.loads(body)) if body else None
    elif not is_stream:
        _WHOLE[api](told, orjson.loads(body))
        told.is_ended = True
    else:
        for event in _events(body):
            if event == _DONE:
                told.is_ended = True
            else:
                _STREAMED[api](told, orjson.loads(event))
    return told


def _events(body: bytes) -> Iterator[bytes]:
    """The data of whole events; what is behind the last blank line was cut."""
    for block in body[: body.rfind(b"\n\n") + 1].split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(_EVENT):
                yield line[len(_EVENT) :]


def _code(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else {}
    return str(error.get("code") or error.get("type") or "unnamed")


def _chat(told: Told, body: Any) -> None:
    told.text = "".join(choice["message"]["content"] or "" for choice in body["choices"])
    told.usage = _usage(body["usage"])


def _completions(told: Told, body: Any) -> None:
    told.text = "".join(choice["text"] for choice in body["choices"])
    told.usage = _usage(body["usage"])


def _messages(told: Told, body: Any) -> None:
    told.text = "".join(part["text"] for part in body["content"] if part["type"] == "text")
    told.usage = _usage(body["usage"])


def _responses(told: Told, body: Any) -> None:
    parts = [part for item in body["output"] if item["type"] == "message" for part in item["content"]]
    told.text = "".join(part["text"] for part in parts)
    told.usage = _usage(body["usage"])


def _usage(usage: Mapping[str, Any]) -> tuple[int, int]:
    if "prompt_tokens" in usage:
        return usage["prompt_tokens"], usage["completion_tokens"]
    # Anthropic's API counts what a cache supplied apart; OpenAI's has no such field.
    cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    return usage["input_tokens"] + cached, usage["output_tokens"]


def _chat_event(told: Told, event: Any) -> None:
    if "error" in event:
        told.error = _code(event)
        return
    for choice in event["choices"]:
        told.text += choice["delta"].get("content") or ""
    _count(told, event)


def _completions_event(told: Told, event: Any) -> None:
    if "error" in event:
        told.error = _code(event)
        return
    told.text += "".join(choice["text"] for choice in event["choices"])
    _count(told, event)


def _count(told: Told, event: Any) -> None:
    if event.get("usage"):
        told.usage = _usage(event["usage"])


def _messages_event(told: Told, event: Any) -> None:
    kind = event["type"]
    if kind == "error":
        told.error = _code(event)
    elif kind == "content_block_delta":
        told.text += event["delta"].get("text", "")
    elif kind == "message_delta" and "input_tokens" in event["usage"]:
        told.usage = _usage(event["usage"])
    elif kind == "message_stop":
        told.is_ended = True


def _responses_event(told: Told, event: Any) -> None:
    kind = event["type"]
    if kind == "response.output_text.delta":
        told.text += event["delta"]
    elif kind in ("response.completed", "response.incomplete"):
        told.usage = _usage(event["response"]["usage"])
        told.is_ended = True
    elif kind in ("error", "response.failed"):
        told.error = _code(event)


_WHOLE: Mapping[str, Callable[[Told, Any], None]] = {
    "chat": _chat, "completions": _completions, "messages": _messages, "responses": _responses,
}  # fmt: skip
_STREAMED: Mapping[str, Callable[[Told, Any], None]] = {
    "chat": _chat_event, "completions": _completions_event, "messages": _messages_event,
    "responses": _responses_event,
}  # fmt: skip
