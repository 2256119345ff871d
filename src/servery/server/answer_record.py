"""What became of one answer: counted as it goes, observed once when it is over."""

from collections.abc import Callable

from servery.telemetry.answer_timing import AnswerTiming
from servery.telemetry.metrics import Metrics
from servery.upstream.upstream import Chunk


class AnswerRecord:
    """The counts and times of one answer; `settle` is to be called once, however it ended."""

    def __init__(
        self, metrics: Metrics, model: str, arrived_s: float, clock: Callable[[], float], *, shown: str | None = None
    ) -> None:
        """`model` is the name of the upstream, of which there are few; `shown` what the client called it, for the log."""
        self.model = shown or model
        self.timing = AnswerTiming(arrived_s)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.finish_reasons: list[str] = []
        self._metrics = metrics.of_model(model)
        self._clock = clock

    def add(self, chunk: Chunk) -> None:
        """Take in the next piece of the answer."""
        if chunk.prompt_tokens:
            self.prompt_tokens += chunk.prompt_tokens
            self.cached_tokens += chunk.cached_tokens
            self._metrics.count_prompt(chunk.prompt_tokens, chunk.cached_tokens)
        if chunk.queued_s is not None:
            self._metrics.observe_queue(chunk.queued_s)
        if chunk.tokens:
            gap_s = self.timing.add(chunk.index, chunk.tokens, self._clock())
            self._metrics.count_tokens(chunk.tokens, gap_s)
        if chunk.finish_reason is not None:
            self.finish_reasons.append(chunk.finish_reason)
            self._metrics.count_finish(chunk.finish_reason)

    def settle(self, cut_by: str | None) -> None:
        """The answer is over; `cut_by` says who cut it short, None when it is complete.

        Not to be called for a refusal, which is counted by its status.
        """
        if cut_by is None or self.timing.ttft_s is not None:  # how fast nothing came is nobody's latency
            self._metrics.observe_answer(self.timing, self._clock())
        if cut_by is not None:
            self._metrics.count_abort(cut_by)

    def __str__(self) -> str:
        """For the log: sizes and times, never content."""
        text = f"{self.model}: {self.prompt_tokens} prompt tokens ({self.cached_tokens} cached)"
        if self.timing.ttft_s is not None:
            text += f", {self.timing.tokens} generated, first after {1000 * self.timing.ttft_s:.0f} ms"
        if self.finish_reasons:
            text += f", {'+'.join(sorted(set(self.finish_reasons)))}"
        return text
