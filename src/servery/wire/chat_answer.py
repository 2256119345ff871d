"""`POST /v1/chat/completions`: the answer, whole or as a stream of chunks."""

from collections.abc import Mapping, Sequence

import msgspec

from servery.wire import sse
from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob
from servery.wire.usage import Usage


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprob]
    refusal: None = None


class _Function(msgspec.Struct, frozen=True, omit_defaults=True):
    arguments: str
    name: str | None = None


class _Call(msgspec.Struct, frozen=True, omit_defaults=True):
    function: _Function
    index: int | None = None
    id: str | None = None
    type: str | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[_Call] | msgspec.UnsetType = msgspec.UNSET


class _Choice(msgspec.Struct, frozen=True):
    index: int
    message: _Message
    logprobs: _Logprobs | None
    finish_reason: str


class _ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[_Choice]
    usage: Usage


class _Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: _Delta
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: Sequence[_ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()


class ChatForm:
    """The answer to one chat as OpenAI's clients read it.

    A stream says first who speaks in each completion. When the client asked for usage, every chunk has `usage: null` but
    the last, which has it and no choices. Without `shows_reasoning` the client is told none of it.
    """

    def __init__(
        self, answer_id: str, created: int, model: str, *, include_usage: bool = False, shows_reasoning: bool = True
    ) -> None:
        self._id = answer_id
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._shows_reasoning = shows_reasoning
        self._no_usage = None if include_usage else msgspec.UNSET
        self._begun: set[int] = set()

    def tell(self, defaults: Mapping[str, float]) -> None:
        """It is not shown."""

    def start(self, usage: Usage) -> bytes:
        """Nothing: each completion says by itself that it begins."""
        return b""

    def delta(self, delta: MessageDelta) -> bytes:
        """One chunk for what is new, one before it if the completion begins, one after it if it ends."""
        index, data = delta.index, b""
        if not self._shows_reasoning:
            delta = msgspec.structs.replace(delta, reasoning="")
        if index not in self._begun:
            self._begun.add(index)
            data = self._event((_ChunkChoice(index, _Delta(role="assistant", content="")),))
        if delta.reasoning or delta.content or delta.calls or delta.logprobs:
            data += self._event((_ChunkChoice(index, _grown(delta), _logprobs(delta.logprobs)),))
        if delta.finish_reason is not None:
            data += self._event((_ChunkChoice(index, _Delta(), None, delta.finish_reason),))
        return data

    def end(self, usage: Usage) -> bytes:
        """The usage, if the client asked for it."""
        return self._event((), usage) if self._include_usage else b""

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """The answer that is not streamed."""
        choices = [
            _Choice(message.index, self._written(message), _logprobs(message.logprobs), message.finish_reason)
            for message in messages
        ]
        answer = _ChatCompletion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return _ENCODER.encode(answer)

    def _written(self, message: Message) -> _Message:
        return _Message(
            content=None if message.calls and not message.content else message.content,
            reasoning_content=(message.reasoning if self._shows_reasoning else "") or msgspec.UNSET,
            tool_calls=[_call(call) for call in message.calls] or msgspec.UNSET,
        )

    def _event(self, choices: Sequence[_ChunkChoice], usage: Usage | None = None) -> bytes:
        shown = self._no_usage if usage is None else usage
        chunk = _Chunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=shown)
        return sse.event(_ENCODER.encode(chunk))


def _grown(delta: MessageDelta) -> _Delta:
    is_only_logprobs = not (delta.reasoning or delta.content or delta.calls)
    return _Delta(
        content=delta.content if delta.content or is_only_logprobs else None,
        reasoning_content=delta.reasoning or None,
        tool_calls=[_call_piece(call) for call in delta.calls] or None,
    )


def _call_piece(call: CallDelta) -> _Call:
    kind = None if call.id is None else "function"
    return _Call(_Function(call.arguments, call.name), call.position, call.id, kind)


def _call(call: Call) -> _Call:
    return _Call(_Function(call.arguments, call.name), id=call.id, type="function")


def _logprobs(logprobs: list[TokenLogprob] | None) -> _Logprobs | None:
    return None if logprobs is None else _Logprobs(logprobs)
