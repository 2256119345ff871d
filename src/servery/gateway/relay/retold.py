"""An answer of before, told to a client who may want it in another way: a stream as a whole, a whole as a stream. Pure."""

from collections.abc import Sequence

import msgspec

from servery.gateway.dispatch.earlier import Earlier
from servery.gateway.relay.continuable import can_be_repeated, has_logprobs
from servery.gateway.relay.continuation import Said
from servery.upstream.anthropic.answer import read_answer as read_message
from servery.upstream.ask import Api, Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.openai.answer import CHUNK, read_answer
from servery.upstream.relay.heard import heard
from servery.wire.errors import ApiError
from servery.wire.message import AnswerForm, CallDelta, Message, MessageDelta
from servery.wire.usage import Usage


def retold(ask: Ask, earlier: Earlier) -> bytes | None:
    """The answer's bytes as this request wants them; None where it cannot be told that way."""
    is_same = earlier.is_stream == ask.is_stream
    if is_same and (not ask.is_stream or earlier.includes_usage == ask.head.include_usage):
        return earlier.data
    is_in_columns = ask.api is Api.COMPLETIONS and has_logprobs(ask)
    if not can_be_repeated(ask) or ask.api is Api.RESPONSES or is_in_columns:
        return None
    try:
        messages = _messages(ask, earlier)
        form, usage = ask.form(), earlier.usage or Usage.of(0, 0, 0)
    except (msgspec.DecodeError, ApiError, UpstreamFailure):
        return None
    if not messages:
        return None
    return _events(form, messages, usage) if ask.is_stream else form.body(messages, usage)


def _messages(ask: Ask, earlier: Earlier) -> list[Message]:
    if earlier.is_stream:
        found = heard(ask, earlier.data)
        return [] if found is None else [message for _, message in sorted(Said(found.deltas).messages.items())]
    if ask.api is Api.MESSAGES:
        return read_message(earlier.data, "")[0]
    if ask.api is Api.CHAT:
        return read_answer(earlier.data, "")[0]
    choices = CHUNK.decode(earlier.data).choices
    return [Message(index=at.index, content=at.text or "", finish_reason=at.finish_reason or "stop") for at in choices]


def _events(form: AnswerForm, messages: Sequence[Message], usage: Usage) -> bytes:
    deltas = [delta for message in messages for delta in _deltas(message)]
    return form.start(usage) + b"".join([form.delta(delta) for delta in deltas]) + form.end(usage)


def _deltas(message: Message) -> list[MessageDelta]:
    """The message at once, part by part, and its end."""
    index = message.index
    calls = tuple(
        CallDelta(position=at, id=call.id, name=call.name, arguments=call.arguments)
        for at, call in enumerate(message.calls)
    )
    parts = [
        MessageDelta(index=index, reasoning=message.reasoning),
        MessageDelta(index=index, content=message.content, logprobs=message.logprobs),
        *[MessageDelta(index=index, calls=(call,)) for call in calls],
    ]
    end = MessageDelta(index=index, finish_reason=message.finish_reason, stop=message.stop)
    return [*[part for part in parts if not part.is_empty], end]
