"""What a client has been told of an answer that was passed on to it, read out of its bytes; for somebody to go on with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from servery.upstream.anthropic.answer import EVENT, AnthropicStream
from servery.upstream.ask import Api, Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.openai.answer import DONE, OpenAIStream
from servery.wire.completion_answer import CompletionLogprobs, column_tokens
from servery.wire.errors import ApiError
from servery.wire.message import AnswerForm, MessageDelta
from servery.wire.responses_answer import ResponsesForm
from servery.wire.responses_told import NotReadable, told_response
from servery.wire.sse import EventCutter, data_of

_OWN_BLOCKS = ("text", "thinking", "tool_use")


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer's beginning, and a form in which the same answer goes on: with its id, its blocks numbered."""

    deltas: Sequence[MessageDelta]
    form: AnswerForm


class _CompletionChoice(msgspec.Struct, frozen=True):
    index: int = 0
    text: str | None = None
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class _CompletionChunk(msgspec.Struct, frozen=True):
    choices: list[_CompletionChoice] = []


_COMPLETION = msgspec.json.Decoder(_CompletionChunk)
_EVENT = msgspec.json.Decoder(dict[str, Any])


class _ChatHead(msgspec.Struct, frozen=True):
    id: str = ""
    created: int = 0


def heard(ask: Ask, data: bytes) -> Heard | None:
    """What whole events of a stream said to the client who asked; None where that cannot be gone on with."""
    events = [text for lines in EventCutter().feed(data) if (text := data_of(lines))]
    if not events:
        return None
    try:
        if ask.api in (Api.CHAT, Api.COMPLETIONS):
            return _choices(ask, events[0], data)
        if ask.api is Api.MESSAGES:
            return _message(ask, events, data)
        return _response(ask, events) if ask.api is Api.RESPONSES else None
    except (msgspec.DecodeError, ApiError, UpstreamFailure, NotReadable):
        return None


def _choices(ask: Ask, first: bytes, data: bytes) -> Heard:
    head = msgspec.json.decode(first, type=_ChatHead)
    form = msgspec.structs.replace(ask, answer_id=head.id or ask.answer_id, created=head.created or ask.created).form()
    reader = CompletionReader() if ask.api is Api.COMPLETIONS else OpenAIStream("", ask.head.n or 1)
    return _written(reader.feed(data), form)


class CompletionReader:
    """Reads a stream of completions: their texts as contents."""

    def __init__(self) -> None:
        self._cutter = EventCutter()

    def feed(self, data: bytes) -> list[MessageDelta]:
        """What a piece says; raises `msgspec.DecodeError` for what is no event, or has log probabilities of another form."""
        events = [text for lines in self._cutter.feed(data) if (text := data_of(lines)) and text != DONE]
        return [
            MessageDelta(
                index=choice.index,
                content=choice.text or "",
                logprobs=None if choice.logprobs is None else column_tokens(choice.logprobs),
                finish_reason=choice.finish_reason,
            )
            for event in events
            for choice in _COMPLETION.decode(event).choices
        ]


def _message(ask: Ask, events: Sequence[bytes], data: bytes) -> Heard | None:
    """None if there are blocks of Anthropic's own, which its form neither has nor numbers."""
    found = [EVENT.decode(text) for text in events]
    blocks = [event.content_block.type for event in found if event.content_block is not None]
    if found[0].message is None or any(block not in _OWN_BLOCKS for block in blocks):
        return None
    stream = AnthropicStream("")
    deltas = stream.feed(data)
    form = msgspec.structs.replace(ask, answer_id=found[0].message.id or ask.answer_id).form()
    form.start(stream.usage)
    return _written(deltas, form)


def _response(ask: Ask, events: Sequence[bytes]) -> Heard:
    """Another deployment is asked for it as a chat, so it has to be one."""
    ask.typed()
    told = told_response([_EVENT.decode(text) for text in events])
    form = ask.form()
    for delta in told.deltas:
        form.delta(delta)
    if not isinstance(form, ResponsesForm):
        raise NotReadable("no response")
    form.take_up(told)
    return Heard(told.deltas, form)


def _written(deltas: Sequence[MessageDelta], form: AnswerForm) -> Heard:
    """The form has written all of it, for nobody."""
    for delta in deltas:
        form.delta(delta)
    return Heard(deltas, form)
