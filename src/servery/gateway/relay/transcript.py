"""What the client has been told of an answer, and the pen with which it is told more."""

from collections.abc import Sequence
from dataclasses import replace

from servery.gateway.dispatch.late_form import LateForm
from servery.gateway.relay.continuation import Continuation, Said
from servery.upstream.upstream import Chunk
from servery.wire.message import MessageDelta
from servery.wire.usage import Usage


class Transcript:
    """An answer to a chat as one client reads it: by one upstream, and by those that went on with it.

    Only what was written in `form` can be gone on with: the form knows what it has numbered and left open.
    """

    def __init__(self, form: LateForm) -> None:
        self._form = form
        self._deltas: list[MessageDelta] = []
        self._continuation: Continuation | None = None
        self._before: Usage | None = None

    @property
    def is_known(self) -> bool:
        """Whether all that was said is known, and more can be said in the same form."""
        return self._form.is_begun

    def said(self) -> Said:
        """All that was said."""
        return Said(self._deltas)

    def tell(self, chunk: Chunk) -> bytes:
        """What the client is to read of a piece; raises `Diverged` if it is one of another answer than it has."""
        if self._continuation is None:
            self._deltas += chunk.deltas
            return chunk.data
        rest = [new for each in chunk.deltas if (new := self._continuation.rest(each)) is not None]
        return self._write(rest, chunk.usage)

    def repeat(self) -> None:
        """From here on come the pieces of an answer that is written once more, from its beginning."""
        self._continuation = Continuation(self.said())

    def go_on(self, before: Usage) -> None:
        """From here on come the pieces of an answer that goes on behind what was said, which took `before`."""
        self._continuation = Continuation(Said())
        self._before = before

    def counted(self, chunk: Chunk, data: bytes) -> Chunk:
        """What counts of a piece for the answer that the client has, of which it was told `data`."""
        if self._continuation is None:
            return chunk
        usage = None if chunk.usage is None else self._total(chunk.usage)
        tokens = chunk.tokens if data else 0
        return replace(chunk, tokens=tokens, prompt_tokens=0, cached_tokens=0, queued_s=None, usage=usage)

    def _write(self, deltas: Sequence[MessageDelta], usage: Usage | None) -> bytes:
        self._deltas += deltas
        data = b"".join([self._form.delta(each) for each in deltas])
        return data if usage is None else data + self._form.end(self._total(usage))

    def _total(self, usage: Usage) -> Usage:
        """Of an answer in two parts: the prompt as it was first, and all that was generated."""
        if self._before is None:
            return usage
        prompt, cached = self._before.prompt_tokens, self._before.prompt_tokens_details.cached_tokens
        return Usage.of(prompt, self._before.completion_tokens + usage.completion_tokens, cached)
