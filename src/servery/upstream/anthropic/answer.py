"""An answer of Anthropic's Messages API, whole or event by event, as messages grow."""

from typing import Any

import msgspec

from servery.upstream.anthropic.errors import event_error
from servery.upstream.refusal import cut, malformed
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.sse import EventCutter, EventTooLong, data_of
from servery.wire.usage import Usage

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _OutputDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int | None = None


class AnthropicUsage(msgspec.Struct, frozen=True):
    """Tokens as Anthropic counts them: `input_tokens` are those that no cache had anything to do with."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def after(self, earlier: "AnthropicUsage") -> "AnthropicUsage":
        """These counts, those of an `earlier` event where there are none: all are totals."""
        mine = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(earlier, **{name: value for name, value in mine.items() if value is not None})

    def usage(self) -> Usage:
        """As OpenAI's clients read it."""
        cached, details = self.cache_read_input_tokens or 0, self.output_tokens_details
        prompt = (self.input_tokens or 0) + (self.cache_creation_input_tokens or 0) + cached
        reasoning = 0 if details is None else details.thinking_tokens or 0
        return Usage.of(prompt, self.output_tokens or 0, cached, reasoning)


class _Block(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _Delta(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Answer(msgspec.Struct, frozen=True):
    id: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: AnthropicUsage = AnthropicUsage()


class Event(msgspec.Struct, frozen=True):
    """An event of any type; of a type that is not known here it says nothing."""

    type: str
    index: int = 0
    message: _Answer | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: AnthropicUsage | None = None
    error: msgspec.Raw = msgspec.Raw(b"{}")


EVENT = msgspec.json.Decoder(Event)


class _Whole(msgspec.Struct, frozen=True):
    type: str
    content: list[_Block]
    usage: AnthropicUsage
    stop_reason: str | None = None
    stop_sequence: str | None = None


_WHOLE = msgspec.json.Decoder(_Whole)


class AnthropicStream:
    """Reads one streamed answer; with `is_held_by_call` the arguments of its call are its text."""

    def __init__(self, deployment: str, *, is_held_by_call: bool = False) -> None:
        self._deployment = deployment
        self._is_held_by_call = is_held_by_call
        self._cutter = EventCutter()
        self._counted = AnthropicUsage()
        self._calls = -1  # the position of the last one
        self._open: str | None = None  # the type of the open block
        self._has_arguments = False
        self._is_complete = False

    @property
    def usage(self) -> Usage:
        """What was counted so far."""
        return self._counted.usage()

    def feed(self, data: bytes) -> list[MessageDelta]:
        """What `data` adds; raises `ApiError` and `UpstreamFailure` for an error event and for what is no event."""
        try:
            events = [EVENT.decode(found) for lines in self._cutter.feed(data) if (found := data_of(lines))]
        except (msgspec.DecodeError, EventTooLong) as error:
            raise malformed(self._deployment, f"an event that cannot be read: {error}") from error
        return [delta for event in events for delta in self._read(event) if not delta.is_empty]

    def end(self) -> list[MessageDelta]:
        """What comes when there are no more bytes; raises `UpstreamFailure` if there should be."""
        if not self._is_complete:
            raise cut(self._deployment)
        return []

    def _read(self, event: Event) -> list[MessageDelta]:
        if event.usage is not None:
            self._counted = event.usage.after(self._counted)
        match event.type:
            case "message_start" if event.message is not None:
                self._counted = event.message.usage.after(self._counted)
            case "content_block_start" if event.content_block is not None:
                return self._begun(event.content_block)
            case "content_block_delta" if event.delta is not None:
                return self._grown(event.delta)
            case "content_block_stop":
                return self._ended()
            case "message_delta" if event.delta is not None and event.delta.stop_reason is not None:
                return [self._finished(event.delta.stop_reason, event.delta.stop_sequence)]
            case "message_stop":
                self._is_complete = True
            case "error":
                raise event_error(event.error, self._deployment)
        return []

    def _begun(self, block: _Block) -> list[MessageDelta]:
        self._open, self._has_arguments = block.type, False
        if block.type != "tool_use":
            return [MessageDelta(content=block.text, reasoning=block.thinking)]
        self._calls += 1
        given = _json(block.input) if block.input else ""
        if self._is_held_by_call:
            return [MessageDelta(content=given)]
        self._has_arguments = bool(given)
        return [self._call(CallDelta(position=self._calls, id=block.id, name=block.name, arguments=given))]

    def _grown(self, delta: _Delta) -> list[MessageDelta]:
        if delta.type != "input_json_delta":
            return [MessageDelta(content=delta.text, reasoning=delta.thinking)]
        if self._open != "tool_use":  # a tool of Anthropic's own
            return []
        if self._is_held_by_call:
            return [MessageDelta(content=delta.partial_json)]
        self._has_arguments = self._has_arguments or bool(delta.partial_json)
        return [self._call(CallDelta(position=self._calls, arguments=delta.partial_json))] if delta.partial_json else []

    def _ended(self) -> list[MessageDelta]:
        """A call without arguments has an empty object of them, which clients parse."""
        is_bare = self._open == "tool_use" and not self._has_arguments and not self._is_held_by_call
        self._open = None
        return [self._call(CallDelta(position=self._calls, arguments="{}"))] if is_bare else []

    def _finished(self, reason: str, stop: str | None) -> MessageDelta:
        return MessageDelta(finish_reason=finish_reason(reason, is_call_hidden=self._is_held_by_call), stop=stop)

    @staticmethod
    def _call(call: CallDelta) -> MessageDelta:
        return MessageDelta(calls=(call,))


def read_answer(body: bytes, deployment: str, *, is_held_by_call: bool = False) -> tuple[list[Message], Usage]:
    """An answer that was not streamed; raises `UpstreamFailure` for what is none."""
    try:
        whole = _WHOLE.decode(body)
    except msgspec.DecodeError as error:
        raise malformed(deployment, f"an answer that cannot be read: {error}") from error
    message = Message(index=0, stop=whole.stop_sequence)
    for block in whole.content:
        message.reasoning += block.thinking
        message.content += block.text
        if block.type == "tool_use" and is_held_by_call:
            message.content += _json(block.input)
        elif block.type == "tool_use":
            message.calls.append(Call(id=block.id, name=block.name, arguments=_json(block.input)))
    message.finish_reason = finish_reason(whole.stop_reason or "", is_call_hidden=is_held_by_call)
    return [message], whole.usage.usage()


def finish_reason(reason: str, *, is_call_hidden: bool = False) -> str:
    """Why an answer ended, in the words of chat completions; `is_call_hidden`: it ended with a call that is its text."""
    found = _FINISH_REASONS.get(reason, "stop")
    return "stop" if is_call_hidden and found == "tool_calls" else found


def _json(value: Any) -> str:
    return msgspec.json.encode({} if value is None else value).decode()
