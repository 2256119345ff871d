"""What the choice of a way to compute attention depends on. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepShape:
    """Whether every row has one token, and powers of 2 that bound rows and contexts."""

    is_decode: bool
    rows: int
    context: int

    @classmethod
    def bounding(cls, max_query_tokens: int, num_rows: int, longest_context: int) -> "StepShape":
        """The shape of a batch."""
        rows, context = (1 << (size - 1).bit_length() for size in (num_rows, longest_context))
        return cls(max_query_tokens == 1, rows, context)
