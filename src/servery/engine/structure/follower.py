"""How far one completion is in its constraint: follows the tokens that were kept, and says what may come next."""

from collections.abc import Sequence
from typing import NamedTuple

import llguidance

from servery.engine.constraint import Constraint
from servery.engine.structure.vocabulary import Vocabulary


class Rows(NamedTuple):
    """Where a completion's masks begin: rows before `begin` are free, the others follow from `drafts[begin:]`."""

    begin: int
    drafts: list[int]


class Follower:
    """The state of one completion. Only tokens that stay are followed, so that nothing has to be taken back.

    What it has followed is a function of the completion's tokens: it outlives preemption, and any other follower that
    catches up with the same tokens is in the same state.
    """

    def __init__(
        self, constraint: Constraint, start: llguidance.LLMatcher, vocabulary: Vocabulary, prompt_len: int
    ) -> None:
        """`start` is the compiled constraint at its beginning; it stays as it is."""
        self.matcher = start
        self.error: str | None = None
        self._is_copied = False
        self._vocabulary = vocabulary
        self._marker = constraint.begins_after.encode()
        self._tail = b""  # the newest bytes before the constraint begins: what the marker may have begun in
        self.has_begun = not self._marker
        self._prompt_len = self._seen = prompt_len

    @property
    def is_complete(self) -> bool:
        """Whether the constraint allows nothing more: the answer is finished."""
        is_open = not self.has_begun or self._seen == self._prompt_len or self.error is not None
        return not is_open and self.matcher.is_stopped() and not self.matcher.is_error()

    def catch_up(self, tokens: Sequence[int]) -> None:
        """Follow what `tokens`, prompt and answer, has beyond what was followed before."""
        self.accept(tokens[self._seen :])

    def accept(self, tokens: Sequence[int]) -> int:
        """Follow the next tokens of the answer until it is complete; returns how many belong to it.

        A token that the constraint does not allow sets `error`; an end token ends the completion and is not followed.
        """
        for taken, token_id in enumerate(tokens):
            if self.is_complete:
                return taken
            self._seen += 1
            if self.error is None:
                self._follow(token_id)
        return len(tokens)

    def plan(self, drafts: Sequence[int]) -> Rows:
        """Which of the 1 + len(drafts) rows need a mask of the grammar."""
        begin, tail = 0, self._tail
        if not self.has_begun:
            for at, draft in enumerate(drafts, 1):
                tail, is_there = self._extend(tail, draft)
                if is_there:
                    begin = at
                    break
            else:
                begin = len(drafts) + 1
        return Rows(begin, list(drafts[begin:]))

    def forced(self, most: int) -> list[int]:
        """Up to `most` tokens that the constraint leaves no choice about, as the tokenizer would write them."""
        if not self.has_begun or self.error is not None or self.matcher.is_stopped():
            return []
        tokens = self._own().compute_ff_tokens()[:most]
        return tokens[: self._own().validate_tokens(tokens)] if tokens else []

    def allowed_drafts(self, drafts: Sequence[int]) -> int:
        """How many of `drafts`, from the first, the constraint allows."""
        begin, rest = self.plan(drafts)
        if self.error is not None or not rest:
            return len(drafts) if self.error is None else 0
        return begin + self._own().validate_tokens(rest)

    def _own(self) -> llguidance.LLMatcher:
        """The matcher, which several completions share until one of them moves or computes."""
        if not self._is_copied:
            self.matcher, self._is_copied = self.matcher.deep_copy(), True
        return self.matcher

    def own_matcher(self) -> llguidance.LLMatcher:
        """The matcher, for computing masks."""
        return self._own()

    def _follow(self, token_id: int) -> None:
        if not self.has_begun:
            self._tail, self.has_begun = self._extend(self._tail, token_id)
        elif token_id not in self._vocabulary.end_ids and not self._own().consume_token(token_id):
            self.error = self.matcher.get_error().partition("\n")[0] or "the token is not allowed"

    def _extend(self, tail: bytes, token_id: int) -> tuple[bytes, bool]:
        """The newest bytes after a token, and whether the marker is among them."""
        text = tail + self._vocabulary.token_bytes(token_id)
        return text[-len(self._marker) :], self._marker in text
