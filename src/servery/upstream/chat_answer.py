"""An engine's text deltas as the answer to a chat."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from servery.engine.completion import TextDelta
from servery.upstream.message_writer import MessageWriter
from servery.upstream.tally import Tally
from servery.upstream.upstream import Chunk
from servery.wire.message import AnswerForm, Message, MessageDelta
from servery.wire.usage import Usage


class ChatAnswer:
    """Builds one answer in the client's `form`, from one writer per completion; use either `stream` or `whole`."""

    def __init__(
        self, form: AnswerForm, writers: Sequence[MessageWriter], prompt_tokens: int, *, is_debugged: bool = False
    ) -> None:
        self._form = form
        self._writers = writers
        self._tally = Tally([prompt_tokens], len(writers), is_debugged=is_debugged)

    def is_over(self, index: int) -> bool:
        """Whether nothing more is wanted of a completion."""
        return self._writers[index].is_over

    async def stream(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Events as the deltas come."""
        is_begun = False
        async for delta in deltas:
            chunk = self._tally.chunk(delta)
            data = [] if is_begun else [self._form.start(self._usage)]
            is_begun = True
            written = self._writers[delta.index].write(delta)
            data += [self._form.delta(each) for each in written or [MessageDelta(index=delta.index)]]
            yield self._told(chunk, written, b"".join(data))
        usage = self._usage
        yield Chunk(data=self._form.end(usage), usage=usage)

    async def whole(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end one with the body."""
        messages = [Message(index=index) for index in range(len(self._writers))]
        async for delta in deltas:
            written = self._writers[delta.index].write(delta)
            for each in written:
                messages[delta.index].add(each)
            yield self._told(self._tally.chunk(delta), written, b"")
        usage = self._usage
        yield Chunk(data=self._form.body(messages, usage), usage=usage)

    @property
    def _usage(self) -> Usage:
        return self._tally.usage(sum(writer.reasoning_tokens for writer in self._writers))

    @staticmethod
    def _told(chunk: Chunk, written: Sequence[MessageDelta], data: bytes) -> Chunk:
        """The chunk with what the client is told, and with why the message ended as the client is told it."""
        return chunk.saying(data, written[-1].finish_reason if written else None, tuple(written))
