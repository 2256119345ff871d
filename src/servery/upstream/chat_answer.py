"""An engine's text deltas as the answer to a chat."""

from collections.abc import AsyncGenerator, AsyncIterator

from servery.engine.completion import TextDelta
from servery.engine.tokenizer import Tokenizer
from servery.upstream.logprobs import token_logprobs
from servery.upstream.tally import Tally
from servery.upstream.upstream import Chunk
from servery.wire.chat import ChatRequest
from servery.wire.message import AnswerForm, Message, MessageDelta


class ChatAnswer:
    """Builds one answer in the client's `form`; use either `stream` or `whole`."""

    def __init__(self, request: ChatRequest, form: AnswerForm, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self._request = request
        self._form = form
        self._tokenizer = tokenizer
        self._n = request.n or 1
        self._tally = Tally([prompt_tokens], self._n)

    async def stream(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Events as the deltas come."""
        is_begun = False
        async for delta in deltas:
            chunk = self._tally.chunk(delta)
            data = b"" if is_begun else self._form.start(self._tally.usage)
            is_begun = True
            yield chunk.with_data(data + self._form.delta(self._message_delta(delta)))
        yield Chunk(data=self._form.end(self._tally.usage))

    async def whole(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end one with the body."""
        messages = [Message(index=index) for index in range(self._n)]
        async for delta in deltas:
            messages[delta.index].add(self._message_delta(delta))
            yield self._tally.chunk(delta)
        yield Chunk(data=self._form.body(messages, self._tally.usage))

    def _message_delta(self, delta: TextDelta) -> MessageDelta:
        return MessageDelta(
            index=delta.index,
            content=delta.text,
            logprobs=token_logprobs(self._tokenizer, delta.logprobs) if self._request.logprobs else None,
            finish_reason=None if delta.finish_reason is None else delta.finish_reason.value,
            stop=delta.stop if isinstance(delta.stop, str) else None,
        )
