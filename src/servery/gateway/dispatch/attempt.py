"""One sending of a request to one deployment, from its first byte to its last, and what it came to."""

from collections.abc import AsyncGenerator, Callable
from types import TracebackType

from servery.gateway.dispatch.deployment import Lease
from servery.gateway.dispatch.outcome import AttemptOutcome
from servery.gateway.dispatch.place import UNWATCHED, Watch
from servery.telemetry.traces.trace import Onward
from servery.upstream.ask import Ask
from servery.upstream.failure import UpstreamFailure, failure_of
from servery.upstream.upstream import Chunk, Sink
from servery.wire.errors import ApiError
from servery.wire.usage import Usage

RESUMED = "resume"  # why an attempt goes on with another one's answer


class Attempt:
    """An answer under way. It is over once, by its end or by what is raised inside `judged`; then its watch is told.

    `is_hedge`: it was sent beside another one that was slow to begin. `refusal` is what its deployment said to a request
    that is at fault itself: that is no failure of the deployment's, nor an answer. `queued_s` is how long an engine of this
    process let its first prompt wait; when it was sent, had its first and last tokens and ended are the clock's times.
    """

    __slots__ = (
        *("_clock", "_is_over", "_lease", "_request_id", "_watch", "ask", "cached_tokens", "chunks", "deployment"),
        *("ended_s", "failure", "first_s", "is_abandoned", "is_estimated", "is_hedge", "last_s", "onward"),
        *("prompt_tokens", "queued_s", "refusal", "sent_s", "sink", "tokens", "usage", "why"),
    )

    def __init__(
        self,
        ask: Ask,
        lease: Lease,
        chunks: AsyncGenerator[Chunk, None],
        clock: Callable[[], float],
        watch: Watch,
        why: str = "",
        request_id: str = "",
        onward: Onward | None = None,
        sink: Sink | None = None,
    ) -> None:
        """`why` says in a word why its deployment was chosen; `onward` what the deployment was told of the trace.

        `sink` is where `chunks` may go without being waited for.
        """
        self.ask = ask
        self.why = why
        self.chunks = chunks
        self.deployment = lease.deployment
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.tokens = 0
        self.is_estimated = False
        self.is_abandoned = False
        self.is_hedge = False
        self.failure: UpstreamFailure | None = None
        self.refusal: ApiError | None = None
        self.usage: Usage | None = None
        self.queued_s: float | None = None
        self.onward = onward
        self.sink = sink
        self._lease = lease
        self._clock = clock
        self._watch = watch
        self.sent_s = self.ended_s = lease.since_s
        self.first_s: float | None = None
        self.last_s = self.sent_s
        self._is_over = False
        self._request_id = request_id

    def add(self, chunk: Chunk, now: float) -> None:
        """Take in the next piece of the answer, which came `now` by the clock."""
        if chunk.prompt_tokens:
            self.prompt_tokens += chunk.prompt_tokens
            self.cached_tokens += chunk.cached_tokens
            self.queued_s = chunk.queued_s if self.queued_s is None else self.queued_s
        if chunk.is_estimated:
            self.is_estimated = True
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.tokens:
            self.tokens += chunk.tokens
            self.last_s = now
            if self.first_s is None:
                self.first_s = now
                self.deployment.ttfts.add(now - self.sent_s)
                self._watch.first_token()
                self.deployment.changed()

    @property
    def taken(self) -> tuple[int, int, int]:
        """Tokens of the prompt, of these those that a cache supplied, and those generated: by its own count if it gave one."""
        usage = self.usage
        if usage is None:
            return self.prompt_tokens, self.cached_tokens, self.tokens
        return usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens

    @property
    def result(self) -> str:
        """What it came to, in a word or two: "ok", "abandoned", the failure's name, or the status of a refusal."""
        if self.failure is not None:
            return self.failure.name
        if self.refusal is not None:
            return f"status_{self.refusal.status}"
        return "abandoned" if self.is_abandoned else "ok"

    def judged(self) -> "_Judged":
        """Inside, what is raised ends the attempt as what it is; an error that is nobody's fault here is a failure."""
        return _Judged(self)

    def fault(self, error: BaseException) -> UpstreamFailure | None:
        """End with what was raised; what it is to be raised as instead, None if it is that already."""
        if isinstance(error, UpstreamFailure):
            self._end(error)
        elif isinstance(error, ApiError):
            found = failure_of(error)
            if found is None and not self._is_over:
                self.refusal = error
            self._end(found)
            return found
        else:
            self.abandon()
        return None

    async def close(self) -> None:
        """Let go of the answer, whole or not; without a word from `judged` or `succeed` it is abandoned."""
        try:
            await self.chunks.aclose()
        finally:
            self.abandon()

    def succeed(self) -> None:
        """The answer is whole."""
        if not self._is_over:
            self._is_over = True
            self._lease.succeed()
            self._tell()

    def abandon(self) -> None:
        """Nobody wants it any more."""
        if not self._is_over:
            self._is_over = self.is_abandoned = True
            self._lease.leave()
            self._tell()

    def _end(self, failure: UpstreamFailure | None) -> None:
        if self._is_over:
            return
        if failure is None:
            self.succeed()
            return
        self._is_over = True
        self.failure = failure
        self._lease.fail(failure)
        trace_id = None if self.onward is None else self.onward.trace_id
        self.deployment.failures.tell(failure, self._request_id, self._clock(), trace_id)
        self._tell()

    def _tell(self) -> None:
        self.ended_s = self._clock()
        if self.sink is not None:
            self.sink.take = None
        if self._watch is not UNWATCHED:
            self._watch.over(self._outcome())

    def _outcome(self) -> AttemptOutcome:
        first_s = self.first_s
        prompt_tokens, cached_tokens, tokens = self.taken
        return AttemptOutcome(
            deployment=self.deployment,
            ask=self.ask,
            failure=self.failure,
            is_abandoned=self.is_abandoned,
            took_s=self.ended_s - self.sent_s,
            ttft_s=None if first_s is None else first_s - self.sent_s,
            tpot_s=None if first_s is None or self.tokens < 2 else (self.last_s - first_s) / (self.tokens - 1),
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            tokens=tokens,
        )


class _Judged:
    """A block whose end by an error ends its attempt."""

    __slots__ = ("_attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        """Nothing is known yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and (found := self._attempt.fault(error)) is not None:
            raise found from error
