"""Prompt lookup: what followed the newest tokens where they stood before, in the prompt or in the answer.

No model, no weights: text that quotes, lists, counts or follows a form repeats itself (Saxena, "Prompt lookup decoding",
2023). Each sequence has an index of its n-grams, extended by the new tokens at each look, so that a look costs the same
at any length of context.
"""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from torch import Tensor

from servery.engine.request import Sequence
from servery.engine.speculation.proposer import Offer
from servery.engine.step import Step

# Longest first. A longer match is right more often; one token alone is hardly ever worth a row.
SIZES = (8, 5, 3, 2)


class SuffixIndex:
    """Where each n-gram of a growing list of tokens was last seen: the position after it."""

    def __init__(self) -> None:
        self._after: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in SIZES)
        self._indexed = 1  # n-grams that end before this position are in; the newest token's are the question

    def match(self, tokens: list[int]) -> tuple[int, int] | None:
        """(position after the latest earlier occurrence of the longest suffix known, index of its size), or None.

        `tokens` may only grow between calls.
        """
        for size, after in zip(SIZES, self._after, strict=True):
            for end in range(max(self._indexed, size), len(tokens)):
                after[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        for kind, (size, after) in enumerate(zip(SIZES, self._after, strict=True)):
            found = after.get(tuple(tokens[-size:]))
            if found is not None:
                return found, kind
        return None


class PromptLookup:
    """Proposes the continuation of the longest suffix that was seen before; its kinds are the sizes of the match."""

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[Sequence, SuffixIndex] = WeakKeyDictionary()

    @property
    def kinds(self) -> int:
        """One for each size of match."""
        return len(SIZES)

    def pass_s(self, rows: int) -> float | None:
        """Nothing: looking up is measured as part of the step."""
        return 0.0

    def entry_s(self, tokens: int) -> float:
        """Nothing has to be computed first."""
        return 0.0

    def offer(self, sequence: Sequence, limit: int) -> Offer | None:
        """What followed the suffix; where that runs into the suffix itself, it is taken to go round."""
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = SuffixIndex()
        tokens = sequence.tokens
        match = index.match(tokens)
        if match is None:
            return None
        at, kind = match
        drafts = tokens[at : at + limit]
        while len(drafts) < limit:
            drafts += drafts[: limit - len(drafts)]
        return Offer(drafts, kind)

    def prepare(self, sequence: Sequence, tokens: int) -> None:
        """Nothing has to be computed first."""

    def complete(self, step: Step) -> Mapping[Sequence, Tensor]:
        """Nothing is pending: lookups are made before the step is decided."""
        return {}
