"""`POST /v1/responses`: the answer, whole or as typed events, and the words of its stream for errors.

A response has items: reasoning, a message, function calls. In a stream each is added, grows and is done, and the whole
response comes first (in progress) and last (completed or incomplete).
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from servery.wire import sse
from servery.wire.dialect import Dialect
from servery.wire.errors import ApiError, encode_error, renamed
from servery.wire.message import CallDelta, Message, MessageDelta, TokenLogprob
from servery.wire.responses import ResponsesRequest
from servery.wire.responses_items import CallItem, Item, MessageItem, OutputText, ReasoningItem, ReasoningText
from servery.wire.responses_told import ToldResponse
from servery.wire.usage import Usage

_Fields = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# What the chat that a request becomes calls otherwise.
_RENAMED = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format.json_schema.name": "text.format.name",
    "response_format.json_schema.schema": "text.format.schema",
    "verbosity": "text.verbosity",
}
# Called with the finished response, as it was sent, and with what it adds to the conversation.
Keep = Callable[[_Fields, list[Item]], None]


class ResponsesForm:
    """The answer to one request as clients of this API read it; `keep` gets it when it is complete."""

    def __init__(self, answer_id: str, created: int, request: ResponsesRequest, keep: Keep | None = None) -> None:
        self._id = answer_id
        self._created = created
        self._request = request
        self._keep = keep
        self._defaults: Mapping[str, float] = {}
        self._message = Message(index=0)
        self._output: list[_Fields] = []  # items that are done
        self._open: _OpenItem | None = None
        self._number = 0
        self._told: _Fields | None = None  # the response as the client was told it by whoever began it

    def take_up(self, told: ToldResponse) -> None:
        """Go on where another has left off, of whom all that was said was written here: with its ids and numbers."""
        if told.open is None:
            self._done()
        else:
            self._opened(told.open["type"])
            if self._open is not None:
                self._open.id = told.open["id"]
        self._output, self._told, self._number = list(told.done), told.response, told.number

    def tell(self, defaults: Mapping[str, float]) -> None:
        """What is shown where the client does not say; null where nobody tells."""
        self._defaults = defaults

    def start(self, usage: Usage) -> bytes:
        """The response, in progress."""
        response = self._response("in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def delta(self, delta: MessageDelta) -> bytes:
        """Pieces of items, and where one begins and is done."""
        self._message.add(delta)
        data = b""
        if delta.reasoning:
            data += self._opened("reasoning") + self._grown(delta.reasoning)
        if delta.content or (delta.logprobs and not delta.calls and not delta.reasoning):
            data += self._opened("message") + self._grown(delta.content, delta.logprobs or [])
        for call in delta.calls:
            data += self._call(call)
        return data if delta.finish_reason is None else data + self._done(_status(delta.finish_reason))

    def end(self, usage: Usage) -> bytes:
        """The response, complete."""
        response = self._finished(self._message, self._output, usage)
        return self._event(f"response.{response['status']}", response=response)

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """The answer that is not streamed."""
        (message,) = messages
        return msgspec.json.encode(self._finished(message, _items(message), usage))

    def _finished(self, message: Message, output: list[_Fields], usage: Usage) -> _Fields:
        status = _status(message.finish_reason)
        response = self._response(status, usage, output)
        if status == "incomplete":
            response["incomplete_details"] = {"reason": _INCOMPLETE[message.finish_reason]}
        if self._keep is not None:
            self._keep(response, _said(output))
        return response

    def _response(self, status: str, usage: Usage | None, output: Sequence[_Fields] = ()) -> _Fields:
        if self._told is not None:
            shown = None if usage is None else _usage(usage)
            return {**self._told, "status": status, "output": list(output), "usage": shown}
        request, text = self._request, self._request.text
        shown_format = {"type": "text"} if text is None or text.format is None else _given(text.format)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": list(output),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None if request.reasoning is None else request.reasoning.effort, "summary": None},
            "service_tier": "default",
            "store": request.is_stored,
            "temperature": self._defaults.get("temperature") if request.temperature is None else request.temperature,
            "text": {"format": shown_format},
            "tool_choice": request.tool_choice or "auto",
            "tools": [_given(tool) for tool in request.tools or []],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": self._defaults.get("top_p") if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": request.user,
            "metadata": request.metadata or {},
        }

    def _call(self, call: CallDelta) -> bytes:
        data = b""
        if call.id is not None:
            data = self._done() + self._opened("function_call", call)
        return data + self._grown(call.arguments) if call.arguments else data

    def _opened(self, kind: str, call: CallDelta | None = None) -> bytes:
        """An item of this kind is open; what says so if it was not."""
        if self._open is not None and self._open.kind == kind:
            return b""
        data = self._done()
        item = self._open = _OpenItem(kind, call)
        data += self._event("response.output_item.added", output_index=self._index, item=item.fields("in_progress"))
        if item.has_parts:
            data += self._part_event("added", item, "")
        return data

    def _grown(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        item = self._open
        assert item is not None
        item.text += text
        item.logprobs += logprobs
        extra = {"logprobs": _logprobs(logprobs)} if item.kind == "message" else {}
        return self._event(f"{item.event}.delta", **self._where(item), delta=text, **extra)

    def _done(self, status: str = "completed") -> bytes:
        """No item is open; what says so if one was. It ends with `status`."""
        item, self._open = self._open, None
        if item is None:
            return b""
        whole = {"arguments": item.text, "name": item.name} if item.kind == "function_call" else {"text": item.text}
        extra = {"logprobs": _logprobs(item.logprobs)} if item.kind == "message" else {}
        data = self._event(f"{item.event}.done", **self._where(item), **whole, **extra)
        if item.has_parts:
            data += self._part_event("done", item, item.text)
        fields = item.fields(status)
        data += self._event("response.output_item.done", output_index=self._index, item=fields)
        self._output.append(fields)
        return data

    @property
    def _index(self) -> int:
        return len(self._output)

    def _where(self, item: "_OpenItem") -> _Fields:
        place = {"item_id": item.id, "output_index": self._index}
        return place if item.kind == "function_call" else {**place, "content_index": 0}

    def _part_event(self, what: str, item: "_OpenItem", text: str) -> bytes:
        return self._event(f"response.content_part.{what}", **self._where(item), part=item.part(text))

    def _event(self, kind: str, **fields: Any) -> bytes:
        numbered = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return _encoded(numbered)


class _OpenItem:
    """An item that grows."""

    def __init__(self, kind: str, call: CallDelta | None) -> None:
        self.kind = kind
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self.id = _new_id(kind)
        self.call_id = "" if call is None else call.id or ""
        self.name = "" if call is None else call.name or ""

    @property
    def has_parts(self) -> bool:
        return self.kind == "message"

    @property
    def event(self) -> str:
        """What its events are called, before `.delta` and `.done`."""
        names = {"message": "output_text", "reasoning": "reasoning_text", "function_call": "function_call_arguments"}
        return f"response.{names[self.kind]}"

    def part(self, text: str) -> _Fields:
        return _text_part(text, self.logprobs if text else [])

    def fields(self, status: str) -> _Fields:
        """The item as it is shown: with its text once it is done."""
        text = "" if status == "in_progress" else self.text
        if self.kind == "function_call":
            return _call_item(self.id, self.call_id, self.name, text, status)
        if self.kind == "reasoning":
            return _reasoning_item(self.id, text, status)
        return _message_item(self.id, [] if status == "in_progress" else [self.part(text)], status)


def _encoded(fields: _Fields) -> bytes:
    kind: str = fields["type"]
    return b"event: " + kind.encode() + b"\n" + sse.event(msgspec.json.encode(fields))


def _items(message: Message) -> list[_Fields]:
    items: list[_Fields] = []
    if message.reasoning:
        items.append(_reasoning_item(_new_id("reasoning"), message.reasoning, "completed"))
    if message.content:
        parts = [_text_part(message.content, message.logprobs or [])]
        items.append(_message_item(_new_id("message"), parts, "completed"))
    calls = message.calls
    items += [_call_item(_new_id("function_call"), call.id, call.name, call.arguments, "completed") for call in calls]
    if items:  # the last is what a limit cut
        items[-1]["status"] = _status(message.finish_reason)
    return items


def _status(finish_reason: str | None) -> str:
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def _new_id(kind: str) -> str:
    prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
    return f"{prefix}_{secrets.token_hex(16)}"


def _message_item(item_id: str, parts: list[_Fields], status: str) -> _Fields:
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": parts}


def _text_part(text: str, logprobs: Sequence[TokenLogprob]) -> _Fields:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}


def _reasoning_item(item_id: str, text: str, status: str) -> _Fields:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"type": "reasoning", "id": item_id, "summary": [], "content": content, "status": status}


def _call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> _Fields:
    return {
        "type": "function_call", "id": item_id, "call_id": call_id, "name": name, "arguments": arguments,
        "status": status,
    }  # fmt: skip


def _said(output: Sequence[_Fields]) -> list[Item]:
    """The output as the next request's history has it."""
    items: list[Item] = []
    for item in output:
        if item["type"] == "message":
            items.append(MessageItem(role="assistant", content=[OutputText(part["text"]) for part in item["content"]]))
        elif item["type"] == "reasoning":
            items.append(ReasoningItem(content=[ReasoningText(part["text"]) for part in item["content"]]))
        else:
            items.append(CallItem(call_id=item["call_id"], name=item["name"], arguments=item["arguments"]))
    return items


def _given(struct: msgspec.Struct) -> _Fields:
    fields: _Fields = msgspec.structs.asdict(struct)
    return {name: value for name, value in fields.items() if value is not None}


def _logprobs(logprobs: Sequence[TokenLogprob]) -> list[_Fields]:
    found: list[_Fields] = msgspec.to_builtins(list(logprobs))
    return found


def _usage(usage: Usage) -> _Fields:
    cached = usage.prompt_tokens_details.cached_tokens
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def encode_input_tokens(count: int) -> bytes:
    """The body of the answer to `/v1/responses/input_tokens`."""
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count})


def _error_body(error: ApiError, request_id: str) -> bytes:
    return encode_error(renamed(error, _RENAMED))


def _error_event(error: ApiError, request_id: str) -> bytes:
    error = renamed(error, _RENAMED)
    # Its number is past any that a stream reaches: whoever writes it does not know how far the stream had come.
    fields = {"code": error.code or error.kind, "message": error.message, "param": error.param}
    return _encoded({"type": "error", "sequence_number": 2**31 - 1, **fields})


RESPONSES = Dialect(error=_error_body, error_event=_error_event, keep_alive=sse.KEEP_ALIVE, done=b"")
