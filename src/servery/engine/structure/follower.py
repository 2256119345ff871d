"""How far one completion is in its constraint: follows the tokens that were kept, and says what may come next."""

from collections.abc import Sequence
from typing import NamedTuple

import llguidance

from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.request import PENDING_TOKEN
from servery.engine.structure.grammar import told_of
from servery.engine.structure.reasoning import OVER, Phase, Progress, ReasoningRule
from servery.engine.structure.vocabulary import Vocabulary


class Reasoned(NamedTuple):
    """What a row inside the reasoning may choose: the token that is forced, or anything but those forbidden."""

    forced: int | None
    forbidden: Sequence[int]


class Plan(NamedTuple):
    """What the rows of one completion may choose.

    The first rows are `reasoned`; the next follows the grammar, or is one of the tokens `besides`; those after it follow
    the grammar behind `drafts`. Where `drafts` end too early the rows have nothing to choose: what comes behind a choice
    between grammar and reasoning is left to the next step.
    """

    reasoned: list[Reasoned]
    drafts: list[int]
    besides: Sequence[int] = ()


class Follower:
    """The state of one completion. Only tokens that stay are followed, so that nothing has to be taken back.

    What it has followed is a function of the completion's tokens: it outlives preemption, and any other follower that
    catches up with the same tokens is in the same state.
    """

    def __init__(
        self, constraint: Constraint, start: llguidance.LLMatcher, vocabulary: Vocabulary, prompt_len: int
    ) -> None:
        """`start` is the compiled constraint at its beginning; it stays as it is."""
        self.is_free = constraint.kind is ConstraintKind.ANYTHING
        self.error: str | None = None
        self._vocabulary = vocabulary
        self._prompt_len = self._seen = prompt_len
        self._start = self.matcher = start
        self._is_copied = False
        self.is_lost = False  # what was written can only become the beginning of reasoning
        reasoning = constraint.reasoning
        self._rule = None if reasoning is None else ReasoningRule(reasoning, vocabulary, is_free=self.is_free)
        self._progress = OVER if self._rule is None else self._rule.start

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing more to say, ever."""
        return self.is_free and self._progress.phase is Phase.OVER

    @property
    def is_complete(self) -> bool:
        """Whether the constraint allows nothing more: the answer is finished."""
        is_open = self.is_free or self._progress.phase is not Phase.OVER
        if is_open or self._seen == self._prompt_len or self.error is not None:
            return False
        return self.matcher.is_stopped() and not self.matcher.is_error()

    def catch_up(self, tokens: Sequence[int]) -> None:
        """Follow what `tokens`, prompt and answer, has beyond what was followed before, as far as it is known."""
        further = list(tokens[self._seen :])
        self.accept(further[:-1] if further and further[-1] == PENDING_TOKEN else further)

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

    def plan(self, drafts: Sequence[int]) -> Plan:
        """What the 1 + len(drafts) rows may choose that follow the tokens so far."""
        progress = self._progress
        reasoned: list[Reasoned] = []
        for at in range(len(drafts) + 1):
            if not self.is_free and progress.phase in (Phase.UNDECIDED, Phase.BREAK):
                return Plan(reasoned, [], self._rule.besides(progress) if self._rule else ())
            if not self.is_free and progress.phase is Phase.OVER:
                return Plan(reasoned, list(drafts[at:]))
            reasoned.append(self._reasoned(progress))
            if self._rule is not None and at < len(drafts):
                progress = self._rule.after(progress, drafts[at])
        return Plan(reasoned, [])

    def forced(self, most: int) -> list[int]:
        """Up to `most` tokens that the constraint leaves no choice about, as the tokenizer would write them."""
        if self.error is not None:
            return []
        if self._rule is not None and (closing := self._rule.forced(self._progress)):
            return closing[:most]
        if self.is_free or self._progress.phase is not Phase.OVER or self.matcher.is_stopped():
            return []
        tokens = self._own().compute_ff_tokens()[:most]
        return tokens[: self._own().validate_tokens(tokens)] if tokens else []

    def allowed_drafts(self, drafts: Sequence[int]) -> int:
        """How many of `drafts`, from the first, the constraint allows."""
        if self.error is not None:
            return 0
        plan = self.plan(drafts)
        for at, row in enumerate(plan.reasoned[: len(drafts)]):
            if row.forced not in (None, drafts[at]):
                return at
        begin = min(len(plan.reasoned), len(drafts))
        return begin + (self._own().validate_tokens(plan.drafts) if plan.drafts else 0)

    def own_matcher(self) -> llguidance.LLMatcher:
        """The matcher, for computing masks."""
        return self._own()

    def _reasoned(self, progress: Progress) -> Reasoned:
        if self._rule is None:
            return Reasoned(None, ())
        forced = self._rule.forced(progress)
        return Reasoned(forced[0] if forced else None, () if self.is_free else self._rule.overshooting(progress))

    def _own(self) -> llguidance.LLMatcher:
        """The matcher, which several completions share until one of them moves or computes."""
        if not self._is_copied:
            self.matcher, self._is_copied = self.matcher.deep_copy(), True
        return self.matcher

    def _follow(self, token_id: int) -> None:
        before = self._progress
        if self._rule is not None:
            self._progress = self._rule.after(before, token_id)
        if self.is_free:
            return
        if self._progress.phase is Phase.OVER:
            self._consume(token_id)
        elif self._progress.phase is Phase.UNDECIDED:
            self._try(token_id)
        elif before.phase is Phase.UNDECIDED:  # it was reasoning after all
            self.matcher, self._is_copied, self.is_lost = self._start, False, False

    def _consume(self, token_id: int) -> None:
        if self.is_lost:
            self.error = "the token is not allowed"
        elif token_id not in self._vocabulary.end_ids and not self._own().consume_token(token_id):
            self.error = told_of(self.matcher.get_error().partition("\n")[0]) or "the token is not allowed"

    def _try(self, token_id: int) -> None:
        """Follow a token that may be the answer's or the beginning of reasoning."""
        self.is_lost = self.is_lost or not self._own().validate_tokens([token_id])
        if not self.is_lost:
            self._own().consume_token(token_id)
