"""An engine's text deltas as TGI's clients read them: token by token."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import msgspec

from servery.engine.completion import TextDelta
from servery.engine.detokenize import Detokenizer
from servery.engine.request import FinishReason, TokenLogprobs
from servery.engine.tokenizer import Tokenizer
from servery.upstream.ask import Ask
from servery.upstream.completion_answer import Prompt, PromptDelta
from servery.upstream.logprobs import IMPOSSIBLE, token_text
from servery.upstream.tally import Tally
from servery.upstream.upstream import Chunk
from servery.wire.tgi import Details, PrefillToken, Token, encode_generated, token_event


class GenerateAnswer:
    """Builds one answer; use either `stream` or `whole`."""

    def __init__(self, ask: Ask, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self._request = ask.generate
        self._as_list = ask.as_list
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._texts = Detokenizer(tokenizer, prompt.token_ids)
        self._tally = Tally([len(prompt.token_ids)], 1)
        self._generated = 0
        self._shown = 0
        self._text = ""

    async def stream(self, deltas: AsyncIterator[PromptDelta]) -> AsyncGenerator[Chunk, None]:
        """One event for each token."""
        async for item in deltas:
            delta = item.delta
            tokens, tops = self._take(delta)
            ending = self._details(delta) if delta.finish_reason is not None else None
            if ending is not None and not tokens:  # the end comes alone: all its tokens were told before
                tokens, tops = [Token(0, "", 0.0, True)], [[]]
            yield self._tally.chunk(delta, b"".join(self._events(tokens, tops, ending)))

    async def whole(self, deltas: AsyncIterator[PromptDelta]) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end one with the body."""
        tokens: list[Token] = []
        tops: list[list[Token]] = []
        prefill: list[PrefillToken] = []
        details: Details | None = None
        async for item in deltas:
            prefill = self._prefill(item.delta.prompt_logprobs) or prefill
            new = self._take(item.delta)
            tokens += new[0]
            tops += new[1]
            if item.delta.finish_reason is not None and self._request.parameters.details:
                details = self._details(item.delta, prefill, tokens, tops)
            yield self._tally.chunk(item.delta)
        yield Chunk(data=encode_generated(self._full_text, details, as_list=self._as_list))

    @property
    def _full_text(self) -> str:
        return (self._prompt.text if self._request.parameters.return_full_text else "") + self._text

    def _events(self, tokens: Sequence[Token], tops: Sequence[list[Token]], ending: Details | None) -> list[bytes]:
        events = []
        for at, (token, top) in enumerate(zip(tokens, tops, strict=True)):
            self._shown += 1
            is_last = ending is not None and at == len(tokens) - 1
            events.append(
                token_event(
                    self._shown,
                    token,
                    top if self._request.parameters.top_n_tokens else None,
                    self._full_text if is_last else None,
                    ending if is_last and self._request.parameters.details else None,
                )
            )
        return events

    def _take(self, delta: TextDelta) -> tuple[list[Token], list[list[Token]]]:
        """The delta's tokens, and the most likely ones at the place of each."""
        self._text += delta.text
        self._generated += delta.num_tokens
        if not self._request.shows_tokens:
            return [], []
        tokens = [self._token(of, self._texts.push(of.token_id)) for of in delta.logprobs]
        tops = [
            [self._token(TokenLogprobs(token_id, value, []), self._name(token_id)) for token_id, value in of.top]
            for of in delta.logprobs
        ]
        return tokens, tops

    def _token(self, of: TokenLogprobs, text: str) -> Token:
        is_special = of.token_id in self._tokenizer.special_ids
        return Token(of.token_id, self._name(of.token_id) if is_special else text, _shown(of.logprob), is_special)

    def _name(self, token_id: int) -> str:
        return token_text(self._tokenizer, token_id)

    def _prefill(self, logprobs: Sequence[TokenLogprobs | None]) -> list[PrefillToken]:
        ids = self._prompt.token_ids[: len(logprobs)]
        return [
            PrefillToken(token_id, self._name(token_id), None if of is None else _shown(of.logprob))
            for token_id, of in zip(ids, logprobs, strict=True)
        ]

    def _details(
        self,
        delta: TextDelta,
        prefill: list[PrefillToken] | None = None,
        tokens: list[Token] | None = None,
        tops: list[list[Token]] | None = None,
    ) -> Details:
        reason, given = _reason(delta), self._request.parameters
        if tokens is None or prefill is None:
            length = len(self._prompt.token_ids)
            return Details(finish_reason=reason, generated_tokens=self._generated, seed=given.seed, input_length=length)
        details = Details(
            finish_reason=reason, generated_tokens=self._generated, seed=given.seed, prefill=prefill, tokens=tokens
        )
        return msgspec.structs.replace(details, top_tokens=tops or []) if given.top_n_tokens else details


def _shown(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)


def _reason(delta: TextDelta) -> str:
    if delta.finish_reason is FinishReason.LENGTH:
        return "length"
    return "eos_token" if delta.stop is None else "stop_sequence"
