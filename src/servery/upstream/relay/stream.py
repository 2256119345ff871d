"""A streamed answer whose API the client speaks itself: its bytes go on as they came.

Three things are changed: the model is called as the client calls it, comments and [DONE] are dropped, and what only this
server asked for, the usage, is left out.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from servery.upstream.refusal import cut, malformed
from servery.upstream.relay.mould import Mould
from servery.upstream.upstream import Chunk
from servery.wire.sse import EventCutter, EventTooLong

_MOST_MOULDS = 8  # of one stream
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


class Watch(Protocol):
    """Knows the events of one API."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its end."""
        ...

    def plain(self, lines: bytes) -> int | None:
        """How many tokens there are in an event that tells nothing else; None for one that has to be looked at."""
        ...

    def see(self, lines: bytes) -> Chunk:
        """An event, and what it tells; without data if the client is not to have it.

        Raises `msgspec.DecodeError` for what is no event of this API, `ApiError` and `UpstreamFailure` for errors.
        """


class RelayedStream:
    """Passes on one answer to a client who calls the model `model`; `dropped` are words that it is not to read."""

    def __init__(self, deployment: str, watch: Watch, model: str, dropped: Sequence[bytes] = ()) -> None:
        self._deployment = deployment
        self._watch = watch
        self._dropped = dropped
        self._model = msgspec.json.encode(model)
        self._cutter = EventCutter()
        self._name: tuple[bytes, bytes] | None = None  # as the server's events have it, and as the client's are to
        self._is_counted = False
        self._mould: Mould | None = None
        self._moulds = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """What `data` completes, neighbours of one completion together.

        Raises `ApiError` and `UpstreamFailure` for an error event and for what is no event.
        """
        if self._mould is not None and not self._cutter.rest and (read := self._mould.read(data)) is not None:
            return [Chunk(data=read[0], tokens=read[1])]
        chunks: list[Chunk] = []
        plain: list[bytes] = []
        tokens = 0
        found: int | None = None
        try:
            for lines in self._cutter.feed(data):
                found = self._watch.plain(lines)
                if found is not None:
                    plain.append(lines)
                    tokens += found
                    continue
                if plain:
                    chunks.append(self._passed_on(plain, tokens))
                    plain, tokens = [], 0
                chunks.append(self._seen(self._watch.see(lines)))
        except (msgspec.DecodeError, EventTooLong) as error:
            raise malformed(self._deployment, f"an event that cannot be read: {error}") from error
        if plain and found is not None:
            chunks.append(self._passed_on(plain, tokens))
            self._learn(plain[-1], found)
        return chunks if len(chunks) < 2 else _joined(chunks)

    def end(self) -> list[Chunk]:
        """What is left: that nobody counted, if so. Raises `UpstreamFailure` if there should be more bytes."""
        if not self._watch.is_complete:
            raise cut(self._deployment)
        return [] if self._is_counted else [Chunk(is_estimated=True)]

    def _learn(self, event: bytes, tokens: int) -> None:
        """Know the next ones that are like it; in a stream in which hardly two are alike that is not worth its while."""
        if self._moulds < _MOST_MOULDS:
            self._moulds += 1
            self._mould = Mould.of(event + b"\n\n", self._shown, tokens)

    def _passed_on(self, events: Sequence[bytes], tokens: int) -> Chunk:
        return Chunk(data=self._shown(b"\n\n".join(events) + b"\n\n"), tokens=tokens)

    def _seen(self, chunk: Chunk) -> Chunk:
        self._is_counted = self._is_counted or chunk.usage is not None
        if not chunk.data:
            return chunk
        data = self._shown(chunk.data)
        return chunk if data is chunk.data else msgspec.structs.replace(chunk, data=data)

    def _shown(self, data: bytes) -> bytes:
        """The events as the client is to have them."""
        for words in self._dropped:
            data = data.replace(words, b"")
        if self._name is None:
            found = _MODEL.search(data)
            if found is None:
                return data
            self._name = (found[0], found[0].replace(found[1], self._model))
        return data.replace(*self._name)


def _joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    joined: list[Chunk] = []
    for chunk in chunks:
        last = joined[-1] if joined else None
        if last is not None and last.index == chunk.index and last.finish_reason is None:
            joined[-1] = msgspec.structs.replace(
                chunk,
                data=last.data + chunk.data,
                tokens=last.tokens + chunk.tokens,
                usage=chunk.usage or last.usage,
                is_refusal=last.is_refusal or (chunk.is_refusal and not last.tokens),
            )
        else:
            joined.append(chunk)
    return joined
