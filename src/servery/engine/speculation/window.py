"""How many drafts each sequence gets: those that raise the tokens per second expected of the next step, if any do.

A step of B sequences takes `T(B)` and gives B tokens. The j-th draft of a sequence whose drafts stand with probability a
gives another token with probability a^j (Leviathan et al., arXiv 2211.17192, section 3.2), and costs the time to draft
and to verify it; all of these times are measured. Drafts are taken as long as they raise tokens per second.

What is measured in steps without drafts says nothing of drafts, so there are rare trials, and rare steps without drafts
while there are many. Trials are paid for from a budget, a small share of the time spent, and are the shorter the less is
known. Windows that were chosen because they should pay are kept account of too: when they turn out slower than the same
tokens without drafts, there are none until as small a share of the time has made up for it. So where drafts do not pay
they cost little more than that share, whatever the reason.
"""

import math
from collections.abc import Sequence as Offers
from typing import NamedTuple

from servery.engine.speculation.proposer import DraftCost
from servery.engine.speculation.step_plane import StepPlane

# Tokens per second have to rise by so much, or the prediction is noise.
MIN_GAIN = 1.08
# Of the time without drafts, what may be spent on finding out whether drafts would pay.
TRIAL_SHARE = 0.01
_FIRST_TRIAL_STEPS, _LONGEST_TRIAL_STEPS = 6, 384
_FIRST_TRIALS = 3  # for which a step's time may be owed, so that something is known soon
# Of the time without drafts, what may be spent on looking for drafts in vain.
_LOOK_SHARE = 0.004
_LONGEST_REST_STEPS = 48
_MOST_STEPS_OUT = 63
# After so many steps with drafts some have none. The first of these takes longer than in a row of its like: the drafter
# has had the caches of the processor. What it takes is not learnt.
_CONTROL_EVERY, _CONTROL_STEPS = 96, 6
_COLD_STEPS = 2
# What is owed and what is won is remembered up to so many steps' time.
_MOST_STEPS = 20.0
_MOST_WON_STEPS = 6.0
_MOST_OWED_STEPS = 6.0
_LOSING_STEPS = 3.0
# What it takes to begin with a sequence is to pay off over several steps, so each is charged this share of what is owed.
_DEBT_SHARE = 0.1
# Weight that what prefill took keeps after each later step with some.
_KEEP_PREFILL = 0.95


_UNBOUNDED = 1 << 30


class Candidate(NamedTuple):
    """A sequence that could be drafted for: how likely its drafts stand, how many there are, what it takes to begin."""

    acceptance: float
    limit: int
    entry_s: float = 0.0


class Choice(NamedTuple):
    """Windows, one for each candidate, and the tokens per second expected with them, or with none if they are 0."""

    windows: list[int]
    tokens_per_s: float


class Outcome(NamedTuple):
    """A step in which `sequences` decoded: `drafts` were verified and `tokens` came of it in `step_s`.

    Besides, `prefill_tokens` were computed. `is_drafted`: drafting was tried, for `drafting_s`, even if no draft came
    of it; else that is the time of looking whether to. Of that time, `entry_s` went into beginning with sequences.
    """

    sequences: int
    drafts: int
    tokens: int
    step_s: float
    drafting_s: float
    prefill_tokens: int = 0
    is_drafted: bool = False
    entry_s: float = 0.0


class WindowPolicy:
    """Chooses the windows of one step after another, and learns from what they came to."""

    def __init__(self, max_drafts: int) -> None:
        self.max_drafts = max_drafts
        self.plain = StepPlane()  # steps without drafts
        self.drafted = StepPlane()  # steps with drafts, whose first costs more than each further one
        self._budget_s = self._won_s = 0.0  # for trials, and by chosen windows
        self._usual_s = 0.0
        self._debt_s = 0.0  # what it took to begin with sequences and is not yet paid for
        self._prefill_s = self._prefill_tokens = self._prefill_token_s = 0.0
        self._is_trial = False
        self._trials = 0
        self._trial_after = _FIRST_TRIAL_STEPS
        self._steps_without = self._steps_with = 0
        self._rest_steps = self._control_left = 0

    def is_trial_due(self) -> bool:
        """Whether the next step should have drafts to learn from, whatever is expected of them."""
        most_owed_s = self._usual_s if self._trials < _FIRST_TRIALS else 0.0
        is_affordable = self._budget_s >= -most_owed_s
        return self._steps_without >= self._trial_after and is_affordable

    def is_hopeless(self, num_sequences: int, acceptance: float, drafting: DraftCost | None) -> bool:
        """Whether no window can pay, even if every sequence's drafts stand so often: then nobody need be looked at."""
        if not (self.plain.is_known and self.drafted.is_known) or drafting is None:
            return True
        plain_s = self.plain.predict(num_sequences)
        if self._rest_steps or self._won_s < -_LOSING_STEPS * plain_s or self._is_control:
            return True
        return _longest(acceptance, self.max_drafts) * plain_s < MIN_GAIN * (
            self.drafted.predict(num_sequences, 0) + drafting.fixed_s
        )

    @property
    def _is_control(self) -> bool:
        """Whether the next step is to have no drafts so that it is known what they save."""
        return self._steps_with >= _CONTROL_EVERY or self._control_left > 0

    def steps_to_sit_out(self, *, is_hopeless: bool) -> int:
        """After a step: in how many further ones there would be no drafts, so that nothing need be asked or measured.

        Nobody was looked at in the step itself if it was hopeless.
        """
        if self._rest_steps:
            return self._rest_steps
        if not is_hopeless or self._steps_without < _COLD_STEPS or self._control_left:
            return 0
        return min(_MOST_STEPS_OUT, max(self._trial_after - self._steps_without, 0))

    def sit_out(self, steps: int) -> None:
        """So many steps passed that were not measured."""
        earned_s = steps * TRIAL_SHARE * self._usual_s
        self._budget_s = min(self._budget_s + earned_s, _MOST_STEPS * self._usual_s)
        self._won_s += min(earned_s, max(-self._won_s, 0.0))
        self._steps_without += steps
        self._rest_steps = max(self._rest_steps - steps, 0)

    def trial(self, candidates: Offers[Candidate], spare_tokens: int = _UNBOUNDED) -> list[int]:
        """Windows to learn from: short ones first, for some sequences that can begin within a few steps' time, or the budget."""
        self._is_trial = True
        window = 2 ** min(self._trials, 2)
        affordable_s = max(_LOSING_STEPS * self.plain.predict(len(candidates)), self._budget_s)
        wanted = -(-len(candidates) // 4)
        windows = []
        for candidate in candidates:
            affordable_s -= candidate.entry_s
            is_taken = wanted > 0 and affordable_s >= 0.0
            wanted -= is_taken
            windows.append(min(candidate.limit, window, spare_tokens) if is_taken else 0)
            spare_tokens -= windows[-1]
        return windows

    def choose(
        self,
        num_sequences: int,
        candidates: Offers[Candidate],
        drafting: DraftCost,
        answer_tokens: float = math.inf,
        spare_tokens: int = _UNBOUNDED,
    ) -> Choice:
        """The windows, one for each candidate, with which `num_sequences` are expected to get on fastest.

        What it takes to begin with a sequence has to pay off in `answer_tokens` more of it. The windows add up to
        `spare_tokens` at most.
        """
        self._is_trial = False
        windows = [0] * len(candidates)
        tokens, seconds = float(num_sequences), self.drafted.predict(num_sequences, 0)
        plain = tokens / self.plain.predict(num_sequences)
        best, chosen = MIN_GAIN * plain, Choice(windows, plain)
        row_s = self.drafted.per_draft_s + drafting.per_row_s
        chances = [1.0] * len(candidates)
        for depth in range(1, self.max_drafts + 1):
            # How likely the draft is made at all: where drafting stops early, only if those before it were good.
            reached = chances.copy() if drafting.stops_early else [1.0] * len(candidates)
            rate = tokens / (seconds + drafting.fixed_s)
            taken: list[tuple[int, float]] = []
            for at, candidate in enumerate(candidates):
                if windows[at] < depth - 1 or candidate.limit < depth:
                    continue
                chances[at] *= candidate.acceptance
                added_s = row_s * reached[at] + (self._entry_s(candidate, answer_tokens) if depth == 1 else 0.0)
                if chances[at] > rate * added_s and len(taken) < spare_tokens:
                    taken.append((at, added_s))
            if not taken:
                break
            spare_tokens -= len(taken)
            windows = windows.copy()
            for at, added_s in taken:
                windows[at] = depth
                tokens += chances[at]
                seconds += added_s
            seconds += drafting.fixed_s * min(sum(reached[at] for at, _ in taken), 1.0)
            if tokens / seconds > best:
                best, chosen = tokens / seconds, Choice(windows, tokens / seconds)
        return chosen

    def _entry_s(self, candidate: Candidate, answer_tokens: float) -> float:
        """The share of one step in what it takes to begin; the answer has the fewer steps the more drafts stand."""
        return candidate.entry_s * min(_longest(candidate.acceptance, self.max_drafts) / answer_tokens, 1.0)

    def observe(self, outcome: Outcome) -> None:
        """Learn from a step: what it took if nobody prefilled, and what drafts gained or lost in any case."""
        plain_s = self.plain.predict(outcome.sequences)
        if outcome.prefill_tokens:
            if not (plain_s and self._learn_prefill(outcome, plain_s)):
                self._count(is_drafted=outcome.is_drafted, is_pure=False)
                return
            step_s = outcome.step_s - self._prefill_token_s * outcome.prefill_tokens
        else:
            step_s = outcome.step_s
        self._account(outcome, step_s, plain_s)
        is_pure = not outcome.prefill_tokens
        self._count(is_drafted=outcome.is_drafted, is_pure=is_pure)
        if is_pure:
            self._learn(outcome.sequences, outcome.drafts, step_s)

    def _learn_prefill(self, outcome: Outcome, plain_s: float) -> bool:
        """Learn what a token of prefill takes; whether that is known."""
        if not outcome.drafts:
            self._prefill_s = _KEEP_PREFILL * self._prefill_s + max(outcome.step_s - plain_s, 0.0)
            self._prefill_tokens = _KEEP_PREFILL * self._prefill_tokens + outcome.prefill_tokens
            self._prefill_token_s = self._prefill_s / self._prefill_tokens
        return self._prefill_tokens > 0

    def _account(self, outcome: Outcome, step_s: float, usual_s: float) -> None:
        """Book what drafts cost beyond what their tokens would have, or gained; `step_s` is without prefill."""
        self._usual_s = usual_s
        entry_s = min(outcome.entry_s, outcome.drafting_s)
        drafting_s = outcome.drafting_s - entry_s
        if self._is_trial:  # it need not go on, so nothing would pay for it later
            self._budget_s = max(self._budget_s - entry_s, -_MOST_OWED_STEPS * usual_s)
        else:  # also before the first drafts of a long context
            self._debt_s += entry_s
        if outcome.is_drafted and not self._is_trial:
            drafting_s += _DEBT_SHARE * self._debt_s
            self._debt_s -= _DEBT_SHARE * self._debt_s
        lost_s = step_s + drafting_s - usual_s * outcome.tokens / outcome.sequences
        most_s = _MOST_STEPS * usual_s
        if not outcome.is_drafted:
            earned_s = TRIAL_SHARE * outcome.step_s
            self._budget_s = min(self._budget_s + earned_s, most_s)
            self._won_s += min(earned_s, max(-self._won_s, 0.0)) - drafting_s  # looking for drafts takes time, too
            is_resting = self._rest_steps > 0
            rest_steps = int(drafting_s / (_LOOK_SHARE * outcome.step_s))
            self._rest_steps = self._rest_steps - 1 if is_resting else min(rest_steps, _LONGEST_REST_STEPS)
        elif self._is_trial:
            self._budget_s = max(self._budget_s - max(lost_s, 0.0), -_MOST_OWED_STEPS * usual_s)
        else:
            self._won_s = min(max(self._won_s - lost_s, -most_s), _MOST_WON_STEPS * usual_s)

    def _learn(self, num_sequences: int, drafts: int, step_s: float) -> None:
        if not drafts:
            if self._steps_without > _COLD_STEPS or not self.drafted.is_known:
                self.plain.observe(num_sequences, 0, step_s)
            return
        if not self.drafted.is_known:  # as if of what drafts add half were for the first and half for each
            added_s = max(step_s - self.plain.predict(num_sequences), 0.0)
            self.drafted.believe(self.plain.per_sequence_s, added_s / drafts / 2)
        self.drafted.observe(num_sequences, drafts, step_s)

    def _count(self, *, is_drafted: bool, is_pure: bool) -> None:
        if not is_drafted:
            self._control_left = (
                _CONTROL_STEPS if self._steps_with >= _CONTROL_EVERY else max(self._control_left - 1, 0)
            )
            self._steps_without += 1
            self._steps_with = 0
        elif self._is_trial:
            if is_pure:  # else nothing was learnt of what drafts take
                self._trials += 1
                self._trial_after = min(2 * self._trial_after, _LONGEST_TRIAL_STEPS)
            self._steps_without = 0
        else:
            if self._won_s > 0.0:  # else it is off and on by turns, and trials stay as rare as they were
                self._trial_after = _FIRST_TRIAL_STEPS
            self._steps_without = 0
            self._steps_with += 1
        self._is_trial = False


def _longest(acceptance: float, max_drafts: int) -> float:
    """Tokens expected of one step of a sequence with the longest window (arXiv 2211.17192, equation 1)."""
    if acceptance >= 1:
        return 1.0 + max_drafts
    return (1 - acceptance ** (max_drafts + 1)) / (1 - acceptance)
