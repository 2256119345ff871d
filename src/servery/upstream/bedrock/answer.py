"""An answer of Bedrock's Converse API, whole or frame by frame, as messages grow."""

from typing import Any

import msgspec

from servery.upstream.bedrock.errors import stream_error
from servery.upstream.bedrock.event_stream import BadFrame, Frame, FrameCutter
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.refusal import cut, malformed
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.usage import Usage

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens as Bedrock counts them: `input_tokens` are those that no cache had anything to do with."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None

    def usage(self) -> Usage:
        """As OpenAI's clients read it."""
        cached = self.cache_read_input_tokens or 0
        return Usage.of(self.input_tokens + cached + (self.cache_write_input_tokens or 0), self.output_tokens, cached)


class _ToolUse(msgspec.Struct, frozen=True, rename="camel"):
    tool_use_id: str = ""
    name: str = ""
    input: Any = None
    type: str | None = None


class _ReasoningText(msgspec.Struct, frozen=True):
    text: str = ""


class _Reasoning(msgspec.Struct, frozen=True, rename="camel"):
    text: str | None = None
    reasoning_text: _ReasoningText | None = None


class _Block(msgspec.Struct, frozen=True, rename="camel"):
    """A block, a piece of one, or the beginning of one."""

    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None

    @property
    def reasoning(self) -> str:
        """What it says of reasoning, whole or in pieces."""
        found = self.reasoning_content
        if found is None:
            return ""
        return found.text or (found.reasoning_text.text if found.reasoning_text else "")


class _More(msgspec.Struct, frozen=True):
    stop_sequence: str | None = None


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    """The payload of any event."""

    start: _Block | None = None
    delta: _Block | None = None
    stop_reason: str | None = None
    additional_model_response_fields: _More | None = None
    usage: _Usage | None = None


class _Message(msgspec.Struct, frozen=True):
    content: list[_Block]


class _Output(msgspec.Struct, frozen=True):
    message: _Message


class _Whole(msgspec.Struct, frozen=True, rename="camel"):
    output: _Output
    stop_reason: str
    usage: _Usage = _Usage()
    additional_model_response_fields: _More | None = None


_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Whole)


class ConverseStream:
    """Reads one streamed answer; with `is_held_by_call` the arguments of its call are its text."""

    def __init__(self, deployment: str, *, is_held_by_call: bool = False) -> None:
        self._deployment = deployment
        self._is_held_by_call = is_held_by_call
        self._cutter = FrameCutter()
        self._calls = -1  # the position of the last one
        self._open: str | None = None  # "call", or "other" for a call that is the service's own
        self._has_arguments = False
        self._is_complete = False
        self.usage = Usage.of(0, 0, 0)

    def feed(self, data: bytes) -> list[MessageDelta]:
        """What `data` adds; raises `ApiError` and `UpstreamFailure` for an exception and for what is no frame."""
        try:
            deltas = [delta for frame in self._cutter.feed(data) for delta in self._read(frame)]
        except (BadFrame, msgspec.DecodeError) as error:
            raise malformed(self._deployment, f"a frame that cannot be read: {error}") from error
        return [delta for delta in deltas if not delta.is_empty]

    def end(self) -> list[MessageDelta]:
        """What comes when there are no more bytes; raises `UpstreamFailure` if there should be."""
        if not self._is_complete or self._cutter.has_rest:
            raise cut(self._deployment)
        return []

    def _read(self, frame: Frame) -> list[MessageDelta]:
        if frame.kind == "error":
            message = frame.headers.get(":error-message", "")
            raise stream_error(frame.name, msgspec.json.encode({"message": message}), self._deployment)
        if frame.kind == "exception":
            raise stream_error(frame.name, frame.payload, self._deployment)
        event = _EVENT.decode(frame.payload)
        if event.usage is not None:
            self.usage = event.usage.usage()
        match frame.name:
            case "contentBlockStart" if event.start is not None and event.start.tool_use is not None:
                return self._begun(event.start.tool_use)
            case "contentBlockDelta" if event.delta is not None:
                return self._grown(event.delta)
            case "contentBlockStop":
                return self._ended()
            case "messageStop":
                self._is_complete = True
                return [self._finished(event)]
        return []

    def _begun(self, call: _ToolUse) -> list[MessageDelta]:
        self._open, self._has_arguments = ("call" if call.type is None else "other"), False
        if self._open == "other" or self._is_held_by_call:
            return []
        self._calls += 1
        return [_called(CallDelta(position=self._calls, id=call.tool_use_id, name=call.name))]

    def _grown(self, delta: _Block) -> list[MessageDelta]:
        if delta.tool_use is None:
            return [MessageDelta(content=delta.text or "", reasoning=delta.reasoning)]
        piece = delta.tool_use.input
        if self._open != "call" or not isinstance(piece, str) or not piece:
            return []
        if self._is_held_by_call:
            return [MessageDelta(content=piece)]
        self._has_arguments = True
        return [_called(CallDelta(position=self._calls, arguments=piece))]

    def _ended(self) -> list[MessageDelta]:
        """A call without arguments has an empty object of them, which clients parse."""
        is_bare = self._open == "call" and not self._has_arguments and not self._is_held_by_call
        self._open = None
        return [_called(CallDelta(position=self._calls, arguments="{}"))] if is_bare else []

    def _finished(self, event: _Event) -> MessageDelta:
        reason = finish_reason(event.stop_reason or "", self._deployment, is_call_hidden=self._is_held_by_call)
        more = event.additional_model_response_fields
        return MessageDelta(finish_reason=reason, stop=None if more is None else more.stop_sequence)


def read_answer(body: bytes, deployment: str, *, is_held_by_call: bool = False) -> tuple[list[Message], Usage]:
    """An answer that was not streamed; raises `UpstreamFailure` for what is none."""
    try:
        whole = _WHOLE.decode(body)
    except msgspec.DecodeError as error:
        raise malformed(deployment, f"an answer that cannot be read: {error}") from error
    more = whole.additional_model_response_fields
    message = Message(index=0, stop=None if more is None else more.stop_sequence)
    for block in whole.output.message.content:
        message.content += block.text or ""
        message.reasoning += block.reasoning
        call = block.tool_use
        if call is not None and call.type is None:
            arguments = msgspec.json.encode({} if call.input is None else call.input).decode()
            if is_held_by_call:
                message.content += arguments
            else:
                message.calls.append(Call(id=call.tool_use_id, name=call.name, arguments=arguments))
    message.finish_reason = finish_reason(whole.stop_reason, deployment, is_call_hidden=is_held_by_call)
    return [message], whole.usage.usage()


def finish_reason(reason: str, deployment: str, *, is_call_hidden: bool = False) -> str:
    """Why an answer ended, in the words of chat completions; raises `UpstreamFailure` if the model wrote nonsense."""
    if reason.startswith("malformed_"):
        message = f"the model of the deployment '{deployment}' wrote what is no answer: {reason}"
        raise UpstreamFailure(Kind.MALFORMED, message)
    found = _FINISH_REASONS.get(reason, "stop")
    return "stop" if is_call_hidden and found == "tool_calls" else found


def _called(call: CallDelta) -> MessageDelta:
    return MessageDelta(calls=(call,))
