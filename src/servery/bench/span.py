"""A length in tokens, fixed or drawn evenly between two bounds."""

import random
from typing import NamedTuple


class Span(NamedTuple):
    """From `low` to `high` tokens, both included."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> "Span":
        """Read `200` or `100:300`. Raises `ValueError` with what was given and the rule."""
        low, separator, high = text.partition(":")
        ends = (low, high) if separator else (low, low)
        if not all(end.isascii() and end.isdecimal() for end in ends):
            raise ValueError(f"{text!r} is not a number of tokens; write one such as 200, or two such as 100:300")
        span = cls(int(ends[0]), int(ends[1]))
        if not 1 <= span.low <= span.high:
            raise ValueError(f"{text!r} is not a span of tokens; it must begin at 1 or more and not end before that")
        return span

    def draw(self, source: random.Random) -> int:
        """A length from the span, each equally likely."""
        return source.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"
