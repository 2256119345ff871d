"""`POST /v1/chat/completions`: the answer, whole or as a stream of chunks."""

from collections.abc import Sequence

import msgspec

from servery.wire import sse
from servery.wire.usage import Usage


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the most likely tokens; `bytes` are its UTF-8 bytes, which may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """The token that was chosen and the most likely ones at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of the tokens of a message or of a delta."""

    content: list[TokenLogprob]
    refusal: None = None


class _Message(msgspec.Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One completion of the chat."""

    index: int
    message: _Message
    logprobs: ChatLogprobs | None
    finish_reason: str


class _ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class _Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class _ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: _Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: Sequence[_ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()


def chat_choice(index: int, text: str, logprobs: ChatLogprobs | None, finish_reason: str) -> ChatChoice:
    """A finished completion."""
    return ChatChoice(index, _Message(text), logprobs, finish_reason)


def encode_chat(answer_id: str, created: int, model: str, choices: list[ChatChoice], usage: Usage) -> bytes:
    """The body of an answer that is not streamed."""
    return _ENCODER.encode(_ChatCompletion(id=answer_id, created=created, model=model, choices=choices, usage=usage))


class ChatStream:
    """The chunks of one streamed answer, as events.

    When the client asked for usage, every chunk has `usage: null` but the last, which has it and no choices.
    """

    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._id = answer_id
        self._created = created
        self._model = model
        self._no_usage = None if include_usage else msgspec.UNSET

    def role(self, index: int) -> bytes:
        """The first chunk of a completion: who speaks."""
        return self._event((_ChunkChoice(index, _Delta(role="assistant", content="")),))

    def text(self, index: int, text: str, logprobs: ChatLogprobs | None) -> bytes:
        """A further piece of a completion."""
        return self._event((_ChunkChoice(index, _Delta(content=text), logprobs),))

    def finish(self, index: int, reason: str) -> bytes:
        """The last chunk of a completion: why it ended."""
        return self._event((_ChunkChoice(index, _Delta(), None, reason),))

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream whose client asked for usage."""
        return self._event((), usage)

    def _event(self, choices: Sequence[_ChunkChoice], usage: Usage | msgspec.UnsetType | None = None) -> bytes:
        usage = self._no_usage if usage is None else usage
        chunk = _Chunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return sse.event(_ENCODER.encode(chunk))
