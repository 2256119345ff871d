"""`POST /v1/messages`: the answer, whole or as typed events, and the words of Anthropic's API for everything else."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from servery.wire.dialect import Dialect
from servery.wire.errors import ApiError, ContextExceeded, renamed
from servery.wire.message import CallDelta, Message, MessageDelta
from servery.wire.usage import Usage

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERROR_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class AnthropicForm:
    """The answer to one request as Anthropic's clients read it: blocks of thinking, text and tool use.

    `input_tokens` are those that no cache supplied; the others are `cache_read_input_tokens`. `max_tokens` are those asked
    for: an answer that its length ends before was ended by the model's context.
    """

    def __init__(self, answer_id: str, model: str, max_tokens: int) -> None:
        self._id = answer_id
        self._model = model
        self._max_tokens = max_tokens
        self._block = -1  # the open one, or the last
        self._kind: str | None = None  # of the open one
        self._finish_reason = "stop"
        self._stop: str | None = None

    def tell(self, defaults: Mapping[str, float]) -> None:
        """It is not shown."""

    def start(self, usage: Usage) -> bytes:
        """The message without content."""
        message = self._message([], usage, None, None)
        return _event("message_start", {"message": message})

    def delta(self, delta: MessageDelta) -> bytes:
        """Pieces of blocks, and where one begins and ends."""
        data = b""
        if delta.reasoning:
            data += self._opened("thinking", {"thinking": "", "signature": ""})
            data += self._piece({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.content:
            data += self._opened("text", {"text": ""}) + self._piece({"type": "text_delta", "text": delta.content})
        for call in delta.calls:
            data += self._call(call)
        if delta.finish_reason is not None:
            data += self._closed()
            self._finish_reason, self._stop = delta.finish_reason, delta.stop
        return data

    def end(self, usage: Usage) -> bytes:
        """Why the message ended, and all its tokens."""
        reason = self._stop_reason(self._finish_reason, self._stop, usage)
        ended = {"stop_reason": reason, "stop_sequence": self._stop}
        told = _event("message_delta", {"delta": ended, "usage": _usage(usage)})
        return told + _event("message_stop", {})

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """The answer that is not streamed."""
        (message,) = messages
        reason = self._stop_reason(message.finish_reason, message.stop, usage)
        return msgspec.json.encode(self._message(_blocks(message), usage, reason, message.stop))

    def _stop_reason(self, finish_reason: str, stop: str | None, usage: Usage) -> str:
        if stop is not None:
            return "stop_sequence"
        if finish_reason == "length" and usage.completion_tokens < self._max_tokens:
            return "model_context_window_exceeded"
        return _STOP_REASONS.get(finish_reason, finish_reason)

    def _message(
        self, content: list[dict[str, Any]], usage: Usage, reason: str | None, stop: str | None
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(usage),
        }

    def _call(self, call: CallDelta) -> bytes:
        data = b""
        if call.id is not None:
            data = self._closed() + self._opened("tool_use", {"id": call.id, "name": call.name, "input": {}})
        if call.arguments:
            data += self._piece({"type": "input_json_delta", "partial_json": call.arguments})
        return data

    def _opened(self, kind: str, fields: dict[str, Any]) -> bytes:
        """A block of this kind is open; what says so if it was not."""
        if self._kind == kind:
            return b""
        data = self._closed()
        self._kind = kind
        self._block += 1
        return data + _event("content_block_start", {"index": self._block, "content_block": {"type": kind, **fields}})

    def _closed(self) -> bytes:
        """No block is open; what says so if one was."""
        if self._kind is None:
            return b""
        self._kind = None
        return _event("content_block_stop", {"index": self._block})

    def _piece(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._block, "delta": delta})


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    cached = usage.prompt_tokens_details.cached_tokens
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if message.reasoning:
        blocks.append({"type": "thinking", "thinking": message.reasoning, "signature": ""})
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    calls = message.calls
    return blocks + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)} for call in calls
    ]


def _input(arguments: str) -> Any:
    """The arguments' object; a call that was cut short, or has no object, has what it had of them as text."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"__incomplete__": arguments}


def encode_count(input_tokens: int) -> bytes:
    """The body of the answer to `/v1/messages/count_tokens`."""
    return msgspec.json.encode({"input_tokens": input_tokens})


# What the chat that a request becomes calls otherwise.
_RENAMED = {
    "continue_final_message": "messages",
    "response_format.json_schema.schema": "output_config.format.schema",
    "stop": "stop_sequences",
}


def _error(error: ApiError, request_id: str) -> dict[str, Any]:
    kind = _ERROR_KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told = renamed(error, _RENAMED).message
    if isinstance(error, ContextExceeded):  # the words that agents look for to shorten the conversation
        told = f"prompt is too long: {error.prompt_tokens} tokens > {error.limit - 1} maximum. {told}"
    return {"type": "error", "error": {"type": kind, "message": told}, "request_id": request_id}


def _error_body(error: ApiError, request_id: str) -> bytes:
    return msgspec.json.encode(_error(error, request_id))


def _error_event(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + _error_body(error, request_id) + b"\n\n"


ANTHROPIC = Dialect(
    error=_error_body,
    error_event=_error_event,
    keep_alive=_event("ping", {}),
    done=b"",
    request_id_header="request-id",
)
