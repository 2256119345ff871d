"""Prompt lookup: what followed the newest tokens where they stood before, in the prompt or in the answer.

No model, no weights: text that quotes, lists, counts or follows a form repeats itself (Saxena, "Prompt lookup decoding",
2023). Each sequence has an index of its pairs of tokens, extended by the new ones at each look; a look compares what
stands before the latest few occurrences of the newest pair, so that it costs the same at any length of context.
"""

from weakref import WeakKeyDictionary

from servery.engine.request import Sequence
from servery.engine.speculation.proposer import DraftCost, Drafted, Offer, Stakes
from servery.engine.step import Step

# Suffixes are told apart by length, longest first: a longer match is right more often. A single token is none.
SIZES = (8, 5, 3, 2)
# Occurrences of the newest pair that are compared, the latest ones.
MOST_COMPARED = 8


class SuffixIndex:
    """Where each pair of neighbours in a growing list of tokens stood, latest first, as in the hash chains of LZ77."""

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}  # pair -> position after it
        self._before: list[int] = [0, 0]  # position after a pair -> the same of the pair's occurrence before; 0: none

    def match(self, tokens: list[int]) -> tuple[int, int] | None:
        """(position after the earlier occurrence of the longest suffix, how many tokens agree), or None.

        Of `MOST_COMPARED` occurrences of the last two tokens, and of equally long ones the latest; no more than the
        longest of `SIZES` are compared. `tokens` may only grow between calls.
        """
        latest, before, length = self._latest, self._before, len(tokens)
        for end in range(len(before), length):  # the newest pair is the question, so it is not yet in
            pair = tokens[end - 2], tokens[end - 1]
            before.append(latest.get(pair, 0))
            latest[pair] = end
        if length < 2:
            return None
        at, best, agreed = latest.get((tokens[-2], tokens[-1]), 0), 0, 1
        for _ in range(MOST_COMPARED):
            if not at or agreed == SIZES[0]:
                break
            same = _agreeing(tokens, at)
            if same > agreed:
                best, agreed = at, same
            at = before[at]
        return (best, agreed) if best else None


def _agreeing(tokens: list[int], end: int) -> int:
    """How many tokens before `end`, at least two, are those at the end of the text."""
    same = 2
    while same < SIZES[0] and same < end and tokens[end - 1 - same] == tokens[-1 - same]:
        same += 1
    return same


class PromptLookup:
    """Proposes the continuation of the longest suffix that was seen before; its kinds are the sizes of the match."""

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[Sequence, SuffixIndex] = WeakKeyDictionary()

    def forget(self) -> None:
        """Nothing: texts are looked at, not blocks."""

    @property
    def kinds(self) -> int:
        """One for each size of match."""
        return len(SIZES)

    def pass_cost(self, rows: int) -> DraftCost | None:
        """Nothing: all drafts are found at once, and looking for them is bounded by the policy."""
        return DraftCost(0.0, 0.0)

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
        at, agreed = match
        kind = next(kind for kind, size in enumerate(SIZES) if size <= agreed)
        drafts = tokens[at : at + limit]
        while len(drafts) < limit:
            drafts += drafts[: limit - len(drafts)]
        return Offer(drafts, kind)

    def prepare(self, sequence: Sequence, tokens: int) -> None:
        """Nothing has to be computed first."""

    def complete(self, step: Step, stakes: Stakes | None = None) -> Drafted:
        """Nothing is pending: lookups are made before the step is decided."""
        return Drafted(step, {}, {})
