"""What the client has been told of an answer, and the pen with which it is told more."""

from collections.abc import Sequence

import msgspec

from servery.gateway.dispatch.late_form import LateForm
from servery.gateway.relay.continuation import Continuation, Diverged, Said
from servery.upstream.ask import Api, Ask
from servery.upstream.relay.heard import CompletionReader, heard
from servery.upstream.upstream import Chunk
from servery.wire.message import MessageDelta
from servery.wire.usage import Usage

# What is kept of an answer that is passed on, so that another can go on with it. A longer one is not gone on with.
_MOST_BYTES = 4 << 20


class Transcript:
    """An answer to a chat as one client reads it: by one upstream, and by those that went on with it.

    What was written in `form` can be gone on with: the form knows what it has numbered and left open. What was passed on
    as it came is read once that is wanted, and a form is made that could have written it.
    """

    def __init__(self, form: LateForm, ask: Ask) -> None:
        self._form = form
        self._ask = ask
        self._passed_on: list[bytes] = []
        self._passed_on_bytes = 0
        self._deltas: list[MessageDelta] = []
        self._continuation: Continuation | None = None
        self._texts: CompletionReader | None = None
        self._before_tokens: int | None = None  # of an answer in parts, those generated before the last one
        self.is_resumed = False  # another upstream goes on with what the first began
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.tokens = 0

    def learn(self) -> bool:
        """Whether all that was said is known now, and more can be said in the same form."""
        if not self._form.is_begun and self._passed_on_bytes <= _MOST_BYTES:
            found = heard(self._ask, b"".join(self._passed_on))
            if found is not None:
                self._form.take(found.form)
                self._deltas = list(found.deltas)
        return self._form.is_begun

    def said(self) -> Said:
        """All that was said."""
        return Said(self._deltas)

    def tell(self, chunk: Chunk) -> bytes:
        """What the client is to read of a piece; raises `Diverged` if it is one of another answer than it has."""
        if self._continuation is None:
            if chunk.deltas:
                self._deltas += chunk.deltas
            data = chunk.data
            if not self._form.is_begun and self._passed_on_bytes <= _MOST_BYTES:
                self._passed_on.append(data)
                self._passed_on_bytes += len(data)
            elif self._passed_on:
                self._passed_on.clear()
            if chunk.usage is None and not chunk.prompt_tokens:
                self.tokens += chunk.tokens
            else:
                self._count(chunk)
            return data
        rest = [new for each in self._read(chunk) if (new := self._continuation.rest(each)) is not None]
        if rest:
            self.tokens += chunk.tokens
        return self._write(rest, chunk.usage)

    def _reader(self) -> CompletionReader | None:
        return CompletionReader() if self._ask.api is Api.COMPLETIONS else None

    def _read(self, chunk: Chunk) -> Sequence[MessageDelta]:
        """What a further answer's piece says: completions say it in their events alone."""
        if self._texts is None:
            return chunk.deltas
        try:
            return self._texts.feed(chunk.data)
        except msgspec.DecodeError:
            raise Diverged from None  # it says what it says in another form than the first

    def repeat(self) -> None:
        """From here on come the pieces of an answer that is written once more, from its beginning."""
        self.is_resumed = True
        self._continuation = Continuation(self.said())
        self._texts = self._reader()
        self._before_tokens = None

    def go_on(self) -> None:
        """From here on come the pieces of an answer that goes on behind what was said."""
        self.is_resumed = True
        self._continuation = Continuation(Said())
        self._texts = self._reader()
        self._before_tokens = self.tokens

    def counted(self, chunk: Chunk, data: bytes) -> Chunk:
        """What counts of a piece for the answer that the client has, of which it was told `data`."""
        if self._continuation is None:
            return chunk
        usage = None if chunk.usage is None else self._total(chunk.usage)
        tokens = chunk.tokens if data else 0
        return msgspec.structs.replace(
            chunk, tokens=tokens, prompt_tokens=0, cached_tokens=0, queued_s=None, usage=usage
        )

    def _count(self, chunk: Chunk) -> None:
        self.tokens += chunk.tokens
        if chunk.prompt_tokens:
            self.prompt_tokens += chunk.prompt_tokens
            self.cached_tokens += chunk.cached_tokens
        if chunk.usage is not None and not self.prompt_tokens:
            self.prompt_tokens = chunk.usage.prompt_tokens
            self.cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens

    def _write(self, deltas: Sequence[MessageDelta], usage: Usage | None) -> bytes:
        self._deltas += deltas
        data = b"".join([self._form.delta(each) for each in deltas])
        return data if usage is None else data + self._form.end(self._total(usage))

    def _total(self, usage: Usage) -> Usage:
        """Of an answer in parts: the prompt as it was first, and all that was generated."""
        if self._before_tokens is None:
            return usage
        tokens = self._before_tokens + usage.completion_tokens
        # Whose prompt was never counted is taken to have had what the last one had, without the answer's beginning.
        prompt = self.prompt_tokens or max(0, usage.prompt_tokens - self._before_tokens)
        return Usage.of(prompt, tokens, self.cached_tokens)
