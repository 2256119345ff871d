"""When the tokens of one answer came: from that TTFT, ITL, TPOT and E2E follow, as vLLM's metrics define them."""

import msgspec


class _Completion(msgspec.Struct, gc=False):
    first_s: float
    last_s: float
    tokens: int

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None for a single token."""
        return (self.last_s - self.first_s) / (self.tokens - 1) if self.tokens > 1 else None


class AnswerTiming(msgspec.Struct):
    """The times of one answer with one or more completions; all times are seconds on one clock, passed in."""

    arrived_s: float
    ttft_s: float | None = None
    _completions: dict[int, _Completion] = {}

    @property
    def tokens(self) -> int:
        """Tokens of all completions so far."""
        return sum([completion.tokens for completion in self._completions.values()]) if self._completions else 0

    @property
    def tpots_s(self) -> list[float]:
        """TPOT of each completion of more than one token."""
        if not self._completions:
            return []
        return [tpot for each in self._completions.values() if (tpot := each.tpot_s) is not None]

    def add(self, index: int, tokens: int, now: float) -> float | None:
        """Take in that completion `index` got `tokens` tokens; returns the time since its last ones (ITL), if any."""
        if self.ttft_s is None:
            self.ttft_s = now - self.arrived_s
        known = self._completions.get(index)
        if known is None:
            self._completions[index] = _Completion(now, now, tokens)
            return None
        gap_s, known.last_s = now - known.last_s, now
        known.tokens += tokens
        return gap_s
