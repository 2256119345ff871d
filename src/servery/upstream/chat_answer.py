"""An engine's text deltas as the answer to a chat."""

from collections.abc import AsyncGenerator, AsyncIterator

from servery.engine.completion import TextDelta
from servery.engine.request import FinishReason, TokenLogprobs
from servery.engine.tokenizer import Tokenizer
from servery.upstream.logprobs import chat_logprobs
from servery.upstream.tally import Tally
from servery.upstream.upstream import Call, Chunk
from servery.wire.chat import ChatRequest
from servery.wire.chat_answer import ChatLogprobs, ChatStream, chat_choice, encode_chat


class ChatAnswer:
    """Builds one answer; use either `stream` or `whole`."""

    def __init__(self, request: ChatRequest, call: Call, tokenizer: Tokenizer, prompt_tokens: int) -> None:
        self._request = request
        self._call = call
        self._tokenizer = tokenizer
        self._n = request.n or 1
        self._tally = Tally([prompt_tokens], self._n)

    async def stream(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Events as the deltas come; the usage last, if the client asked for it."""
        request, call = self._request, self._call
        events = ChatStream(call.answer_id, call.created, request.model, include_usage=request.include_usage)
        begun: set[int] = set()
        async for delta in deltas:
            data = b"" if delta.index in begun else events.role(delta.index)
            begun.add(delta.index)
            if delta.text or (request.logprobs and delta.logprobs):
                data += events.text(delta.index, delta.text, self._logprobs(delta.logprobs))
            if delta.finish_reason is not None:
                data += events.finish(delta.index, delta.finish_reason.value)
            yield self._tally.chunk(delta, data)
        if request.include_usage:
            yield Chunk(data=events.usage(self._tally.usage))

    async def whole(self, deltas: AsyncIterator[TextDelta]) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end one with the body."""
        texts = [""] * self._n
        logprobs: list[list[TokenLogprobs]] = [[] for _ in texts]
        reasons = [FinishReason.STOP] * self._n
        async for delta in deltas:
            texts[delta.index] += delta.text
            logprobs[delta.index] += delta.logprobs
            reasons[delta.index] = delta.finish_reason or reasons[delta.index]
            yield self._tally.chunk(delta, b"")
        choices = [
            chat_choice(index, texts[index], self._logprobs(logprobs[index]), reasons[index].value)
            for index in range(self._n)
        ]
        call, usage = self._call, self._tally.usage
        yield Chunk(data=encode_chat(call.answer_id, call.created, self._request.model, choices, usage))

    def _logprobs(self, logprobs: list[TokenLogprobs]) -> ChatLogprobs | None:
        return chat_logprobs(self._tokenizer, logprobs) if self._request.logprobs else None
