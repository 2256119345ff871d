"""An engine's text deltas as the answer to a legacy completion: several prompts, echo, log probabilities in columns."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from servery.engine.completion import TextDelta
from servery.engine.request import FinishReason, TokenLogprobs
from servery.engine.tokenizer import Tokenizer
from servery.upstream.ask import Ask
from servery.upstream.logprobs import completion_logprobs
from servery.upstream.tally import Tally
from servery.upstream.upstream import Chunk
from servery.wire.completion_answer import CompletionChoice, CompletionLogprobs, CompletionStream, encode_completion
from servery.wire.completions import CompletionRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as text, for echo, and as the tokens that the engine is given."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class PromptDelta:
    """A delta, and which prompt it continues."""

    prompt: int
    delta: TextDelta


@dataclass(slots=True)
class _Piece:
    """Text with the tokens in it, as far as they are to be sent."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)


class CompletionAnswer:
    """Builds one answer; use either `stream` or `whole`. Choice `prompt * n + index` is completion `index` of a prompt."""

    def __init__(self, request: CompletionRequest, ask: Ask, tokenizer: Tokenizer, prompts: list[Prompt]) -> None:
        self._request = request
        self._ask = ask
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._n = request.n or 1
        self._tally = Tally([len(prompt.token_ids) for prompt in prompts], self._n, is_debugged=bool(request.debug))
        # With max_tokens 0 the engine generates one token all the same, which nobody is shown.
        self._is_score_only = request.max_tokens == 0
        self._prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}

    async def stream(self, deltas: AsyncIterator[PromptDelta]) -> AsyncGenerator[Chunk, None]:
        """Events as the deltas come; the usage last, if the client asked for it."""
        request, ask = self._request, self._ask
        events = CompletionStream(ask.shown_id, ask.created, request.model, include_usage=request.include_usage)
        sent_chars: dict[int, int] = {}
        async for item in deltas:
            index, piece, data = self._index(item), self._new(item), b""
            if index not in sent_chars:
                piece = self._echoed(item.prompt, piece)
            at = sent_chars.setdefault(index, 0)
            if piece.text or (request.logprobs is not None and piece.token_ids):
                data = events.text(index, piece.text, self._logprobs(piece, at))
                sent_chars[index] = at + len(piece.text)
            if (reason := self._reason(item.delta)) is not None:
                data += events.finish(index, reason)
            yield self._chunk(item, data)
        usage = self._tally.usage()
        yield Chunk(data=events.usage(usage) if request.include_usage else b"", usage=usage)

    async def whole(self, deltas: AsyncIterator[PromptDelta]) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end one with the body."""
        pieces = [_Piece() for _ in range(len(self._prompts) * self._n)]
        reasons = ["stop"] * len(pieces)
        async for item in deltas:
            index, new = self._index(item), self._new(item)
            piece = pieces[index]
            piece.text += new.text
            piece.token_ids += new.token_ids
            piece.logprobs += new.logprobs
            reasons[index] = self._reason(item.delta) or reasons[index]
            yield self._chunk(item, b"")
        shown = [self._echoed(index // self._n, piece) for index, piece in enumerate(pieces)]
        choices = [
            CompletionChoice(index, piece.text, self._logprobs(piece, 0), reasons[index])
            for index, piece in enumerate(shown)
        ]
        ask, usage = self._ask, self._tally.usage()
        yield Chunk(data=encode_completion(ask.shown_id, ask.created, self._request.model, choices, usage))

    def _index(self, item: PromptDelta) -> int:
        return item.prompt * self._n + item.delta.index

    def _new(self, item: PromptDelta) -> _Piece:
        """What a delta adds to its choice."""
        delta = item.delta
        if delta.prompt_logprobs:
            self._prompt_logprobs[item.prompt] = delta.prompt_logprobs
        return _Piece() if self._is_score_only else _Piece(delta.text, delta.token_ids, list(delta.logprobs))

    def _echoed(self, prompt: int, piece: _Piece) -> _Piece:
        """`piece` after its prompt, if the client wants to see that."""
        if not self._request.echo:
            return piece
        of, logprobs = self._prompts[prompt], self._prompt_logprobs.get(prompt, [])
        return _Piece(of.text + piece.text, of.token_ids + piece.token_ids, logprobs + piece.logprobs)

    def _reason(self, delta: TextDelta) -> str | None:
        if delta.finish_reason is None:
            return None
        return FinishReason.LENGTH.value if self._is_score_only else delta.finish_reason.value

    def _chunk(self, item: PromptDelta, data: bytes) -> Chunk:
        return self._tally.chunk(item.delta, data, item.prompt, is_counted=not self._is_score_only)

    def _logprobs(self, piece: _Piece, offset: int) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        return completion_logprobs(self._tokenizer, piece.token_ids, piece.logprobs, offset)
