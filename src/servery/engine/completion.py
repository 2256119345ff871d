"""From an engine's tokens to text: detokenizing, stop strings and the alignment of log probabilities with what is sent."""

from collections.abc import AsyncGenerator, Callable

import msgspec

from servery.engine.detokenize import Detokenizer, Released, StopMatcher
from servery.engine.engine import AsyncEngine
from servery.engine.request import FinishReason, NewRequest, Output, TokenLogprobs
from servery.engine.tokenizer import Tokenizer


class TextDelta(msgspec.Struct, kw_only=True):
    """New text of one completion, with the tokens that begin in it.

    `text` may be empty (a chunk that completes no character, or is held back for a stop string); `token_ids` and
    `logprobs` belong to released text only, so that adding up all deltas gives text and tokens that fit together.
    `num_tokens` counts what the engine generated, released or not. `stop` is the request's stop string or stop token
    that ended it, None after the model's own EOS. `num_drafts` were verified for the `num_tokens`, one of which is the
    model's own. `prompt_logprobs` come once.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    num_tokens: int = 0
    num_drafts: int = 0
    finish_reason: FinishReason | None = None
    stop: str | int | None = None
    cached_tokens: int = 0
    queued_s: float = 0.0
    prompt_logprobs: list[TokenLogprobs | None] = []


class TextAssembler:
    """Turns the outputs of one completion into text deltas; a completion that a stop string ended takes no more."""

    def __init__(
        self,
        request: NewRequest,
        index: int,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`shown` are special tokens that are not skipped."""
        self._index = index
        self._detokenizer = Detokenizer(tokenizer, request.prompt, skip_special_tokens, shown)
        self._matcher = StopMatcher(request.params.stop, is_shown=request.params.include_stop_str_in_output)
        self._shows_stop = request.params.include_stop_str_in_output
        self._unstoppable = request.params.min_tokens  # so many tokens are yet to come before a stop string counts
        self._stop_token_ids = request.params.stop_token_ids
        self._is_free = not request.params.stop  # nothing is ever held back
        self._pending_ids: list[int] = []
        self._pending_logprobs: list[TokenLogprobs] = []
        self.is_finished = False

    def feed(self, output: Output) -> TextDelta:
        """The text that `output` completes."""
        token_ids = output.token_ids
        if self._is_free and len(token_ids) == 1 and output.finish_reason is None and not output.logprobs:
            return self._plain(output, token_ids)
        delta = TextDelta(
            index=self._index,
            num_tokens=len(token_ids),
            num_drafts=output.num_drafts,
            cached_tokens=output.cached_tokens,
            queued_s=output.queued_s,
            prompt_logprobs=output.prompt_logprobs,
        )
        if output.logprobs:
            self._pending_logprobs += output.logprobs
        for token_id in token_ids:
            # The token that ended the completion is no part of its text, unless that is asked for.
            is_hidden = token_id == output.stop_token_id and not self._shows_stop
            text = "" if is_hidden else self._detokenizer.push(token_id)
            self._pending_ids.append(token_id)
            self._release(delta, self._matched(text))
            if self._matcher.stop is not None:
                return self._finish(delta, FinishReason.STOP, self._matcher.stop)
        if output.finish_reason is not None:
            self._flush(delta)
            is_asked_for = output.stop_token_id in self._stop_token_ids
            stop = self._matcher.stop or (output.stop_token_id if is_asked_for else None)
            reason = FinishReason.STOP if self._matcher.stop else output.finish_reason
            return self._finish(delta, reason, stop)
        return delta

    def _plain(self, output: Output, token_ids: list[int]) -> TextDelta:
        """As `feed`, of one token that neither ends the completion nor can be part of what does: nearly always."""
        return TextDelta(
            index=self._index,
            text=self._detokenizer.push(token_ids[0]),
            token_ids=token_ids,
            num_tokens=1,
            num_drafts=output.num_drafts,
            cached_tokens=output.cached_tokens,
            queued_s=output.queued_s,
            prompt_logprobs=output.prompt_logprobs,
        )

    def _matched(self, text: str) -> Released:
        if self._unstoppable == 0:
            return self._matcher.push(text)
        self._unstoppable -= 1
        return self._matcher.skip(text)

    def _flush(self, delta: TextDelta) -> None:
        self._release(delta, self._matcher.push(self._detokenizer.finish(), tokens=0))
        self._release(delta, self._matcher.finish())

    def _release(self, delta: TextDelta, released: Released) -> None:
        text, tokens, _ = released
        delta.text += text
        delta.token_ids += self._pending_ids[:tokens]
        del self._pending_ids[:tokens]
        if self._pending_logprobs:
            delta.logprobs += self._pending_logprobs[:tokens]
            del self._pending_logprobs[:tokens]

    def _finish(self, delta: TextDelta, reason: FinishReason, stop: str | int | None) -> TextDelta:
        self.is_finished = True
        delta.finish_reason, delta.stop = reason, stop
        return delta


class TextAssembly:
    """The assemblers of all completions of one request; tells which of them the engine should stop computing."""

    def __init__(
        self,
        request: NewRequest,
        tokenizer: Tokenizer,
        abort: Callable[[str, int], None],
        *,
        skip_special_tokens: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._request_id = request.request_id
        self._abort = abort
        self._assemblers = [
            TextAssembler(request, index, tokenizer, skip_special_tokens=skip_special_tokens, shown=shown)
            for index in range(request.params.n)
        ]

    @property
    def is_finished(self) -> bool:
        """Whether every completion has ended."""
        return all(assembler.is_finished for assembler in self._assemblers)

    def feed(self, output: Output) -> TextDelta | None:
        """The delta of `output`; None for what the engine still computed after a stop string was found."""
        assembler = self._assemblers[output.index]
        if assembler.is_finished:
            return None
        delta = assembler.feed(output)
        if assembler.is_finished and output.finish_reason is None:
            self._abort(self._request_id, output.index)
        return delta

    def end(self, index: int) -> None:
        """Nobody wants more of a completion."""
        if not self._assemblers[index].is_finished:
            self._assemblers[index].is_finished = True
            self._abort(self._request_id, index)


async def complete(
    engine: AsyncEngine,
    request: NewRequest,
    tokenizer: Tokenizer,
    *,
    skip_special_tokens: bool = True,
    shown: frozenset[int] = frozenset(),
    is_over: Callable[[int], bool] = lambda index: False,
) -> AsyncGenerator[TextDelta, None]:
    """Text deltas of all completions of `request`, in the order they are computed. Close the iterator to abort.

    `shown` are special tokens that are not skipped. A completion for which `is_over` says so after a delta of it is not
    continued; its last delta then has no finish reason. Raises what `AsyncEngine.generate` raises.
    """
    assembly = TextAssembly(request, tokenizer, engine.abort, skip_special_tokens=skip_special_tokens, shown=shown)
    outputs = engine.generate(request)
    try:
        async for output in outputs:
            delta = assembly.feed(output)
            if delta is not None:
                yield delta
                if is_over(delta.index):
                    assembly.end(delta.index)
            if assembly.is_finished:
                return
    finally:
        await outputs.aclose()
