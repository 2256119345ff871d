"""Speculation around a step: draft before it is decided, fill in what is pending after, learn from its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import thread_time

from torch import Tensor

from servery.engine.request import Sequence, StepResult
from servery.engine.speculation.acceptance import Acceptance
from servery.engine.speculation.confidence import Calibration
from servery.engine.speculation.proposer import DraftCost, Offer, Proposer, Stakes
from servery.engine.speculation.window import Candidate, Outcome, WindowPolicy
from servery.engine.step import Step

# Tokens computed in one step so that sequences can be drafted for; a longer context takes several steps.
MAX_ENTRY_TOKENS = 256


# How long answers are taken to be before any were seen, and the weight that one keeps after each later one.
_USUAL_ANSWER_TOKENS = 100.0
_KEEP_PER_ANSWER = 0.95


@dataclass(slots=True)
class _Pause:
    """Steps to sit out in a range of load, and how many were since its policy was told."""

    left: int = 0
    passed: int = 0


class Speculator:
    """Fills in `Sequence.drafts`. Call `propose`, `Scheduler.schedule`, `complete`, the runner, `observe` in turns.

    Unless it `sits_out` a step: while drafts do not pay, most steps are neither looked at nor measured, and cost nothing.

    Times are compared, so `clock` is by default the processor time of this thread: what others on the machine take from
    it would be noise. What pays depends on the load, so each range of it, twice as far up as the one before, has a
    policy of its own, and what was learnt of it lasts until the load is back.
    """

    def __init__(
        self, proposer: Proposer, make_policy: Callable[[], WindowPolicy], clock: Callable[[], float] = thread_time
    ) -> None:
        self._clock = clock
        self._proposer = proposer
        self._make_policy = make_policy
        self._policies: dict[int, WindowPolicy] = {}  # by the bits of the number of sequences
        self._acceptance = Acceptance(proposer.kinds)
        self._calibration = Calibration()
        self._given: dict[Sequence, tuple[int, list[int]]] = {}  # kind and drafts of the step under way
        self._grades: Mapping[Sequence, list[int]] = {}  # of what was tried in it
        self._stakes: Stakes | None = None
        # Of the step under way; what learning from the last one took is an estimate for this one.
        self._drafting_s = self._entry_s = self._run_began = self._learning_s = 0.0
        self._answers, self._answer_tokens = 1.0, _USUAL_ANSWER_TOKENS  # both fading alike
        self._pauses: dict[int, _Pause] = {}  # by the range of load, which may change with every step
        self._is_out = self._is_hopeless = False

    def sits_out(self, num_sequences: int) -> bool:
        """Whether there is nothing to propose for the next step, and nothing to be learnt from it."""
        pause = self._pauses.get(num_sequences.bit_length())
        self._is_out = not num_sequences or (pause is not None and pause.left > 0)
        if pause is None:
            return self._is_out
        if self._is_out:
            pause.left -= 1
            pause.passed += 1
            self._answer_tokens += num_sequences
        elif pause.passed:
            self._policy(num_sequences).sit_out(pause.passed)
            pause.passed = 0
        return self._is_out

    def propose(self, decoding: list[Sequence], spare_tokens: int) -> None:
        """Draft for those who decode and have no drafts of others, as many tokens each as are expected to pay.

        All of them together get no more than `spare_tokens`.
        """
        self._given.clear()
        self._stakes, self._entry_s, self._is_hopeless = None, 0.0, False
        started = self._clock()
        open_to_drafts = [each for each in decoding if not (each.parent.pooling or each.drafts)]
        if open_to_drafts and spare_tokens > 0:
            self._propose(open_to_drafts, len(decoding), spare_tokens)
        self._drafting_s = self._clock() - started

    def forget(self) -> None:
        """The KV cache has lost its content."""
        self._proposer.forget()

    def complete(self, step: Step) -> tuple[Step, Mapping[Sequence, Tensor]]:
        """Draft what is pending: the step with what came of it, and the distributions [drafts, V] of chance's draws."""
        if self._is_out:
            return step, {}
        started = self._clock()
        drafted = self._proposer.complete(step, self._stakes)
        self._grades = drafted.grades
        self._run_began = self._clock()
        self._drafting_s += self._run_began - started
        return drafted.step, drafted.proposals

    def observe(self, step: Step, results: Mapping[Sequence, StepResult]) -> None:
        """Learn from a step that has just been run, before its results are committed."""
        if self._is_out:
            if step.num_tokens > len(step.scheduled):
                self._count_answers(step)
            return
        began = self._clock()
        step_s = began - self._run_began
        self._acceptance.tick()
        decoding = tokens = drafts = prefill_tokens = 0
        is_drafted = False
        for item in step.scheduled:
            if not item.samples or item.count != 1 + item.num_drafts:
                prefill_tokens += item.count
            else:
                decoding += 1
                drafts += item.num_drafts
                tokens += max(len(results[item.sequence].token_ids), 1)
        self._count_answers(step)
        for sequence, (kind, given) in self._given.items():
            if sequence in results and sequence.drafts is given:  # else somebody else drafted
                is_drafted |= self._judge(sequence, kind, max(len(results[sequence].token_ids) - 1, 0))
        self._given.clear()  # sequences are not to outlive their end here
        self._grades = {}
        self._answer_tokens += tokens
        if decoding:
            policy = self._policy(decoding)
            overhead_s = self._drafting_s + self._learning_s
            policy.observe(
                Outcome(decoding, drafts, tokens, step_s, overhead_s, prefill_tokens, is_drafted, self._entry_s)
            )
            pause = self._pauses.setdefault(decoding.bit_length(), _Pause())
            pause.left = policy.steps_to_sit_out(is_hopeless=self._is_hopeless)
        self._learning_s = self._clock() - began

    def _count_answers(self, step: Step) -> None:
        """Those that begin in a step, so that it is known how long they get."""
        for item in step.scheduled:
            if item.samples and len(item.sequence.tokens) == item.sequence.prompt_len:
                self._answers = _KEEP_PER_ANSWER * self._answers + 1.0
                self._answer_tokens *= _KEEP_PER_ANSWER

    def _judge(self, sequence: Sequence, kind: int, stood: int) -> bool:
        """Learn how many of a sequence's drafts stood; whether any was tried at all."""
        grades = self._grades.get(sequence)
        tried = len(sequence.drafts) if grades is None else len(grades)
        if tried:
            self._acceptance.observe(sequence, kind, tried, stood)
        if grades and sequence.drafts:
            self._calibration.observe(grades[: len(sequence.drafts)], stood)
        return tried > 0

    def _propose(self, decoding: list[Sequence], num_sequences: int, spare_tokens: int) -> None:
        policy = self._policy(num_sequences)
        drafting = self._proposer.pass_cost(len(decoding))
        is_trial = policy.is_trial_due()
        self._is_hopeless = not is_trial and policy.is_hopeless(num_sequences, self._acceptance.best, drafting)
        if self._is_hopeless:
            return
        offers = [
            (sequence, offer)
            for sequence in decoding
            if (offer := self._offer(sequence, policy.max_drafts)) is not None
        ]
        if not offers:
            return
        candidates = [self._candidate(sequence, offer) for sequence, offer in offers]
        if is_trial or drafting is None:
            self._take(offers, policy.trial(candidates, spare_tokens))
            return
        answer_tokens = self._answer_tokens / self._answers
        choice = policy.choose(num_sequences, candidates, drafting, answer_tokens, spare_tokens)
        if any(choice.windows):
            usual = {sequence: each.acceptance for (sequence, _), each in zip(offers, candidates, strict=True)}
            self._stakes = _stakes(choice.tokens_per_s, policy.drafted.per_draft_s, drafting, self._calibration, usual)
            self._take(offers, choice.windows)

    def _take(self, offers: list[tuple[Sequence, Offer]], windows: list[int]) -> None:
        """Give the drafts to those who can be drafted for now; the others come nearer to it."""
        left = MAX_ENTRY_TOKENS
        for (sequence, offer), window in zip(offers, windows, strict=True):
            if not window:
                continue
            if offer.entry_tokens <= left:
                sequence.drafts = offer.tokens[:window]
                self._given[sequence] = offer.kind, sequence.drafts
            elif left:
                self._proposer.prepare(sequence, left)
            self._entry_s += self._proposer.entry_s(min(offer.entry_tokens, left))
            left = max(left - offer.entry_tokens, 0)

    def _policy(self, num_sequences: int) -> WindowPolicy:
        load = num_sequences.bit_length()
        policy = self._policies.get(load)
        if policy is None:
            policy = self._policies[load] = self._make_policy()
        return policy

    def _offer(self, sequence: Sequence, max_drafts: int) -> Offer | None:
        limit = min(max_drafts, sequence.max_len - len(sequence.tokens) - 1)
        return self._proposer.offer(sequence, limit) if limit > 0 else None

    def _candidate(self, sequence: Sequence, offer: Offer) -> Candidate:
        acceptance = self._acceptance.of(sequence, offer.kind)
        return Candidate(acceptance, len(offer.tokens), self._proposer.entry_s(offer.entry_tokens))


def _stakes(
    tokens_per_s: float,
    verifying_s: float,
    drafting: DraftCost,
    calibration: Calibration,
    usual: Mapping[Sequence, float],
) -> Stakes | None:
    """What times are in tokens, if drafting can stop early at all."""
    if not drafting.stops_early:
        return None
    return Stakes(
        chances=calibration.chances,
        usual=usual,
        row=tokens_per_s * verifying_s,
        pass_fixed=tokens_per_s * drafting.fixed_s,
        pass_row=tokens_per_s * drafting.per_row_s,
    )
