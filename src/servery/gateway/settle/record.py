"""What one exchange came to: counted as it goes, observed once when it is over."""

import copy
from collections.abc import Callable

from servery.telemetry.answer_timing import AnswerTiming
from servery.telemetry.metrics import FINISHED_BY, Metrics, ModelMetrics
from servery.upstream.upstream import Chunk
from servery.wire.usage import Usage


class Record:
    """The counts and times of one answer; `settle` is to be called once, however it ended.

    Metrics count all work, that of attempts which came to nothing too; the record is of the answer that the client has.
    """

    def __init__(
        self, metrics: Metrics, model: str, arrived_s: float, clock: Callable[[], float], *, shown: str | None = None
    ) -> None:
        """`model` is the name of a served one, of which there are few; `shown` what the client called it, for the log."""
        self.model = shown or model
        self.timing = AnswerTiming(arrived_s)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.queued_s = 0.0
        self.usage: Usage | None = None
        self.is_estimated = False
        self.finish_reasons: list[str] = []
        self._is_new = True  # nothing has come
        self._arrived_s = arrived_s
        self._all = metrics
        self._of = model
        self._metrics: ModelMetrics = metrics.of_model(model)
        self._clock = clock

    def restart(self, model: str) -> None:
        """Another attempt begins, perhaps at another model: what came so far reached nobody."""
        if self._is_new and model == self._of:
            return
        metrics, self._of = self._all.of_model(model), model
        self.model = self.model if model in self.model else model
        self._metrics = metrics
        self._is_new = True
        self.timing = AnswerTiming(self._arrived_s)
        self.prompt_tokens = self.cached_tokens = 0
        self.queued_s = 0.0
        self.usage = None
        self.is_estimated = False
        self.finish_reasons = []

    def anew(self, model: str) -> "Record":
        """One of another attempt at the same answer, beside this one; who answers is known later."""
        other = copy.copy(self)
        other.restart(model)
        return other

    def kept(self) -> "Record":
        """It as it is now, whatever becomes of this one."""
        return copy.copy(self)

    def take(self, other: "Record") -> None:
        """Be the record of the attempt that answers."""
        vars(self).update(vars(other))

    def add(self, chunk: Chunk, now: float) -> None:
        """Take in the next piece of the answer, which came `now` by the clock."""
        self._is_new = False
        if chunk.prompt_tokens:
            self.prompt_tokens += chunk.prompt_tokens
            self.cached_tokens += chunk.cached_tokens
            self._metrics.count_prompt(chunk.prompt_tokens, chunk.cached_tokens)
        if chunk.queued_s is not None:
            self.queued_s += chunk.queued_s
            self._metrics.observe_queue(chunk.queued_s)
        if chunk.tokens:
            gap_s = self.timing.add(chunk.index, chunk.tokens, now)
            self._metrics.count_tokens(chunk.tokens, gap_s)
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.is_estimated:
            self.is_estimated = True
        if chunk.finish_reason is not None:
            self.finish_reasons.append(chunk.finish_reason)
            known = chunk.finish_reason if chunk.finish_reason in FINISHED_BY else "other"
            self._metrics.count_finish(known)

    def settle(self, cut_by: str | None, now: float) -> None:
        """The answer is over; `cut_by` says who cut it short, None when it is complete.

        Not to be called for a refusal, which is counted by its status.
        """
        if self.usage is not None:
            self._count_the_rest(self.usage)
        if cut_by is None or self.timing.ttft_s is not None:  # how fast nothing came is nobody's latency
            self._metrics.observe_answer(self.timing, now)
        if cut_by is not None:
            self._metrics.count_abort(cut_by)

    @property
    def tpot_s(self) -> float | None:
        """The mean of the completions'; None where none has two tokens whose times are known."""
        if self.timing.ttft_s is None:
            return None
        tpots_s = self.timing.tpots_s
        return sum(tpots_s) / len(tpots_s) if tpots_s else None

    @property
    def generated_tokens(self) -> int:
        """Of all completions: the upstream's count if it gave one."""
        return self.timing.tokens if self.usage is None else self.usage.completion_tokens

    def _count_the_rest(self, usage: Usage) -> None:
        """What only the upstream's own count at the end has told."""
        if not self.prompt_tokens:
            self.prompt_tokens = usage.prompt_tokens
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens
            self._metrics.count_prompt(self.prompt_tokens, self.cached_tokens)
        untold = usage.completion_tokens
        if self.timing.ttft_s is not None:
            untold -= self.timing.tokens
        if untold > 0:
            self._metrics.count_tokens(untold, None)

    def fields(self) -> dict[str, object]:
        """As `str`, apart."""
        ttft_s, tpot_s = self.timing.ttft_s, self.tpot_s
        return {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "ttft_ms": None if ttft_s is None else round(1000 * ttft_s, 3),
            "tpot_ms": None if tpot_s is None else round(1000 * tpot_s, 3),
            "finish_reasons": sorted(set(self.finish_reasons)) or None,
        }

    def __str__(self) -> str:
        """For the log: sizes and times, never content."""
        text = f"{self.model}: {self.prompt_tokens} prompt tokens ({self.cached_tokens} cached)"
        if self.timing.ttft_s is not None:
            text += f", {self.generated_tokens} generated, first after {1000 * self.timing.ttft_s:.0f} ms"
        if self.finish_reasons:
            text += f", {'+'.join(sorted(set(self.finish_reasons)))}"
        return text
