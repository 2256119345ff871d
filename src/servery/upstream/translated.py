"""Answers in another API than the client's: read as messages, written in the client's form."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol, TypeAlias

from servery.upstream.upstream import Chunk
from servery.wire.message import AnswerForm, Message, MessageDelta
from servery.wire.usage import Usage

# Reads the body of a whole answer; raises `ApiError` and `UpstreamFailure`.
ReadWhole: TypeAlias = Callable[[bytes], tuple[list[Message], Usage]]


class DeltaReader(Protocol):
    """Reads a streamed answer of one API."""

    @property
    def usage(self) -> Usage:
        """What was counted so far, zeros where nothing was said of it."""
        ...

    def feed(self, data: bytes) -> list[MessageDelta]:
        """What a piece of the body adds; raises `ApiError` and `UpstreamFailure`."""
        ...

    def end(self) -> list[MessageDelta]:
        """What comes behind the last piece; raises `UpstreamFailure` for an answer that has not come to its end."""
        ...


class TranslatedStream:
    """Writes one streamed answer."""

    def __init__(self, form: AnswerForm, reader: DeltaReader) -> None:
        self._form = form
        self._reader = reader
        self._is_begun = False
        self._tokens = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """What the client is told of a piece of the body."""
        return self._told(self._reader.feed(data))

    def end(self) -> list[Chunk]:
        """The rest, with the usage: the upstream's, or if it gave none the number of pieces."""
        chunks = self._told(self._reader.end())
        counted = self._reader.usage
        is_estimated = counted.total_tokens == 0
        usage = Usage.of(0, self._tokens, 0) if is_estimated else counted
        data = self._begin() + self._form.end(usage)
        return [*chunks, Chunk(data=data, usage=usage, is_estimated=is_estimated)]

    def _told(self, deltas: Sequence[MessageDelta]) -> list[Chunk]:
        return [self._chunk(index, list(each)) for index, each in groupby(deltas, key=lambda delta: delta.index)]

    def _chunk(self, index: int, deltas: list[MessageDelta]) -> Chunk:
        data = self._begin() + b"".join([self._form.delta(delta) for delta in deltas])
        tokens = sum(1 for delta in deltas if delta.reasoning or delta.content or delta.calls)
        self._tokens += tokens
        return Chunk(
            data=data,
            index=index,
            tokens=tokens,
            finish_reason=deltas[-1].finish_reason,
            deltas=tuple(deltas),
            is_refusal=any(delta.is_refusal for delta in deltas),
        )

    def _begin(self) -> bytes:
        if self._is_begun:
            return b""
        self._is_begun = True
        return self._form.start(self._reader.usage)


class TranslatedBody:
    """Writes one answer that is not streamed."""

    def __init__(self, form: AnswerForm, read: ReadWhole) -> None:
        self._form = form
        self._read = read
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[Chunk]:
        """Nothing yet."""
        self._pieces.append(data)
        return []

    def end(self) -> list[Chunk]:
        """The answer."""
        messages, usage = self._read(b"".join(self._pieces))
        ends = [Chunk(index=message.index, finish_reason=message.finish_reason) for message in messages]
        is_refusal = all(map(_is_declined, messages))
        return [*ends, Chunk(data=self._form.body(messages, usage), usage=usage, is_refusal=is_refusal)]


def _is_declined(message: Message) -> bool:
    """Whether it is no answer: a refusal, or nothing but the word of a filter."""
    has_words = bool(message.content or message.calls)
    return message.is_refusal or (message.finish_reason == "content_filter" and not has_words)
