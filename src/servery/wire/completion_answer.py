"""`POST /v1/completions`: the answer, whole or as a stream of chunks."""

from collections.abc import Mapping, Sequence

import msgspec

from servery.wire import sse
from servery.wire.message import Message, MessageDelta, TokenLogprob
from servery.wire.usage import Usage


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities, one entry per token; None where there is none (the first token of an echoed prompt).

    `text_offset` counts characters from the start of the choice's text.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class ColumnToken(TokenLogprob, frozen=True):
    """A token of the columns as a client was told it: where it begins, and what stood there for it."""

    offset: int
    given: float | None
    tops: dict[str, float] | None


def column_tokens(columns: CompletionLogprobs) -> list[TokenLogprob]:
    """The columns, token by token; raises `msgspec.ValidationError` for columns that are not of one length."""
    tops = columns.top_logprobs if columns.top_logprobs is not None else [None] * len(columns.tokens)
    try:
        return [
            ColumnToken(token, given or 0.0, [], [], offset, given, top)
            for token, given, top, offset in zip(
                columns.tokens, columns.token_logprobs, tops, columns.text_offset, strict=True
            )
        ]
    except ValueError as error:
        raise msgspec.ValidationError("the columns of log probabilities differ in length") from error


def _columns(tokens: Sequence[TokenLogprob]) -> CompletionLogprobs | None:
    """The tokens in columns again; None without any."""
    found = [each for each in tokens if isinstance(each, ColumnToken)]
    if not found:
        return None
    tops = [each.tops for each in found]
    return CompletionLogprobs(
        tokens=[each.token for each in found],
        token_logprobs=[each.given for each in found],
        top_logprobs=None if all(top is None for top in tops) else tops,
        text_offset=[each.offset for each in found],
    )


class CompletionChoice(msgspec.Struct, frozen=True):
    """One completion, or in a stream a further piece of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()


def encode_completion(answer_id: str, created: int, model: str, choices: list[CompletionChoice], usage: Usage) -> bytes:
    """The body of an answer that is not streamed."""
    return _ENCODER.encode(_Completion(id=answer_id, created=created, model=model, choices=choices, usage=usage))


class CompletionForm:
    """An `AnswerForm` of completions: what each says is its content, with the tokens' columns if it has them."""

    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._answer_id = answer_id
        self._created = created
        self._model = model
        self._events = CompletionStream(answer_id, created, model, include_usage=include_usage)

    def tell(self, defaults: Mapping[str, float]) -> None:
        """It is not shown."""

    def start(self, usage: Usage) -> bytes:
        """Nothing: the first piece is the beginning."""
        return b""

    def delta(self, delta: MessageDelta) -> bytes:
        """The text, and why it ended."""
        columns = _columns(delta.logprobs or ())
        text = self._events.text(delta.index, delta.content, columns) if delta.content or columns else b""
        return text if delta.finish_reason is None else text + self._events.finish(delta.index, delta.finish_reason)

    def end(self, usage: Usage) -> bytes:
        """The usage, if the client asked for it."""
        return self._events.usage(usage) if self._events.is_usage_wanted else b""

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """All of it."""
        choices = [CompletionChoice(each.index, each.content, None, each.finish_reason) for each in messages]
        return encode_completion(self._answer_id, self._created, self._model, choices, usage)


class CompletionStream:
    """The chunks of one streamed answer, as events.

    When the client asked for usage, every chunk has `usage: null` but the last, which has it and no choices.
    """

    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._id = answer_id
        self._created = created
        self._model = model
        self._no_usage = None if include_usage else msgspec.UNSET

    def text(self, index: int, text: str, logprobs: CompletionLogprobs | None) -> bytes:
        """A further piece of a completion."""
        return self._event([CompletionChoice(index, text, logprobs)])

    def finish(self, index: int, reason: str) -> bytes:
        """The last chunk of a completion: why it ended."""
        return self._event([CompletionChoice(index, "", None, reason)])

    def usage(self, usage: Usage) -> bytes:
        """The last chunk of a stream whose client asked for usage."""
        return self._event([], usage)

    @property
    def is_usage_wanted(self) -> bool:
        """Whether the client asked for usage."""
        return self._no_usage is None

    def _event(self, choices: list[CompletionChoice], usage: Usage | None = None) -> bytes:
        shown = self._no_usage if usage is None else usage
        chunk = _Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=shown)
        return sse.event(_ENCODER.encode(chunk))
