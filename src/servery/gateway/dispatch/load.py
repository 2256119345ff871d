"""What is under way at a deployment, as its gateway sees it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Load:
    """Counts of exchanges and tokens: begun without a first token (`prefilling`), answering (`decoding`).

    `prefill_tokens` are the prompt tokens, those expected in a cache left out, that wait for their first answer token.
    """

    prefilling: int = 0
    decoding: int = 0
    prefill_tokens: int = 0

    @property
    def in_flight(self) -> int:
        """All exchanges."""
        return self.prefilling + self.decoding

    def begin(self, tokens: int) -> None:
        """An exchange was sent there, with so many prompt tokens to compute."""
        self.prefilling += 1
        self.prefill_tokens += tokens

    def first_token(self, tokens: int) -> None:
        """The first token of an exchange that began with `tokens` has come."""
        self.prefilling -= 1
        self.prefill_tokens -= tokens
        self.decoding += 1

    def end(self, tokens: int, *, had_first_token: bool) -> None:
        """An exchange that began with `tokens` is over."""
        if had_first_token:
            self.decoding -= 1
        else:
            self.prefilling -= 1
            self.prefill_tokens -= tokens


@dataclass(slots=True)
class Answering:
    """How many answers were under way at once, over time: its integral. Times are seconds of one clock."""

    count: int = 0
    _answer_s: float = 0.0
    _at_s: float = 0.0

    def begin(self, now_s: float) -> float:
        """An answer has begun; returns a mark for `end`."""
        mark = self._until(now_s)
        self.count += 1
        return mark

    def end(self, mark: float, began_s: float, now_s: float) -> float:
        """The answer that began so is over; returns how many were under way while it was, itself included."""
        whole = self._until(now_s) - mark
        self.count -= 1
        return whole / (now_s - began_s) if now_s > began_s else float(self.count + 1)

    def _until(self, now_s: float) -> float:
        self._answer_s += self.count * (now_s - self._at_s)
        self._at_s = now_s
        return self._answer_s
