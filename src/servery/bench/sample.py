"""One request as a client saw it: when each part of its answer arrived, and how it ended.

Times are seconds of `time.perf_counter`; the definitions are those of vLLM's benchmark, so that figures compare.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from servery.bench.client import Client, Delta
from servery.bench.errors import ClientError


@dataclass(slots=True)
class Sample:
    """`sent` is before a connection is had; `arrivals` are of the events that carried text.

    Times count from `scheduled`, when the request should have been sent: a load that waits for a slow server before it
    sends more would else not see how late its answers are (coordinated omission). In a closed loop both are the same.
    """

    sent: float
    arrivals: list[float] = field(default_factory=list)
    ended: float | None = None  # last event with text or the finish reason
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    counted_tokens: int | None = None  # output tokens as the server counted them
    finish_reason: str | None = None
    error_kind: str | None = None
    error: str | None = None
    due: float | None = None  # None: in a closed loop a request is due when it is sent
    turn: int = 1  # of a conversation

    @property
    def scheduled(self) -> float:
        """When it should have been sent."""
        return self.sent if self.due is None else self.due

    @property
    def lag_s(self) -> float:
        """How late this client was in sending it."""
        return self.sent - self.scheduled

    @property
    def is_good(self) -> bool:
        """Whether the whole answer came."""
        return self.error_kind is None

    @property
    def output_tokens(self) -> int:
        """The server's count; where it gives none, the events with text."""
        return len(self.arrivals) if self.counted_tokens is None else self.counted_tokens

    @property
    def ttft_s(self) -> float | None:
        """Time to the first event with text."""
        return self.arrivals[0] - self.scheduled if self.arrivals else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; undefined below two tokens."""
        if self.ended is None or not self.arrivals or self.output_tokens < 2:
            return None
        return (self.ended - self.arrivals[0]) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float | None:
        """Time to the last token."""
        return None if self.ended is None else self.ended - self.scheduled

    @property
    def gaps_s(self) -> list[float]:
        """Times between successive events with text (ITL; an event may carry more than one token)."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]

    @property
    def stall_s(self) -> float | None:
        """The longest of the gaps."""
        return max(self.gaps_s, default=None)

    def take(self, delta: Delta) -> None:
        """Note the next event of the answer."""
        has_text = bool(delta.text or delta.reasoning)
        if has_text:
            self.arrivals.append(delta.at)
        if has_text or delta.finish_reason is not None:
            self.ended = delta.at
        if delta.usage is not None:
            self.prompt_tokens, self.counted_tokens, self.cached_tokens = delta.usage
        self.finish_reason = delta.finish_reason or self.finish_reason


async def ask(
    client: Client, request: dict[str, Any], due: float | None = None, hear: Callable[[str], None] | None = None
) -> Sample:
    """Send one chat completion and note what comes; an error ends up in the sample, it is not raised.

    `hear` is told the answer's text as it comes.
    """
    sample = Sample(sent=perf_counter(), due=due)
    try:
        async with aclosing(client.chat(request)) as deltas:
            async for delta in deltas:
                sample.take(delta)
                if hear is not None and delta.text:
                    hear(delta.text)
    except ClientError as error:
        sample.error_kind, sample.error = error.kind, str(error)
    return sample
