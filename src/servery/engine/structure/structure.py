"""The constraints of all completions under way: attached when they are admitted, masks for each step, ends told."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from weakref import WeakKeyDictionary

import llguidance

from servery.engine.request import Sequence, StepResult
from servery.engine.step import Scheduled, Step
from servery.engine.structure.compiler import Compiler
from servery.engine.structure.follower import Follower
from servery.engine.structure.mask import Mask
from servery.engine.structure.mask_filler import MaskFiller, MaskRequest
from servery.engine.structure.stats import StructureStats

MAX_FORCED = 32  # tokens of one completion in one step: what is forced beyond comes in the next

StepMasks = Mapping[Sequence, "list[Mask | None]"]
"""For each constrained sequence of a step one mask per row: after its tokens, and after each draft; None is free."""


class PendingMasks:
    """Masks that are being computed."""

    def __init__(self, sequences: "list[Sequence]", future: "Future[list[list[Mask | None]]] | None") -> None:
        self._sequences = sequences
        self._future = future

    def wait(self) -> StepMasks:
        """The masks, when they are there."""
        if self._future is None:
            return {}
        return dict(zip(self._sequences, self._future.result(), strict=True))


class Structure:
    """What the runner and the core ask about constraints. A sequence's state goes when the sequence goes."""

    def __init__(self, compiler: Compiler, most_forced: int = MAX_FORCED) -> None:
        self._compiler = compiler
        self._most_forced = most_forced
        self._followers: WeakKeyDictionary[Sequence, Follower] = WeakKeyDictionary()
        self._filler: MaskFiller | None = None  # made for the first constrained step: most engines need no threads
        self._forced = 0

    def attach(self, sequences: Iterable[Sequence], start: llguidance.LLMatcher) -> None:
        """Constrain new sequences of one request by the grammar that was compiled for it."""
        for sequence in sequences:
            constraint = sequence.params.constraint
            if constraint is not None:
                self._followers[sequence] = Follower(constraint, start, self._compiler.vocabulary, sequence.prompt_len)

    @property
    def has_followers(self) -> bool:
        """Whether any sequence under way is constrained."""
        return len(self._followers) > 0

    def start(self, step: Step) -> PendingMasks:
        """Begin to compute the masks of a step, its drafts included."""
        if not self.has_followers:
            return PendingMasks([], None)
        wanted = [item.sequence for item in step.scheduled if item.samples and self.follows(item.sequence)]
        if not wanted:
            return PendingMasks([], None)
        if self._filler is None:
            self._filler = MaskFiller()
        requests = [self._request(sequence) for sequence in wanted]
        return PendingMasks(wanted, self._filler.start(self._compiler.vocabulary, requests))

    def judge(self, item: Scheduled, result: StepResult) -> None:
        """Take the step's tokens of one sequence in; say so in `result` when they finish the answer or break off."""
        sequence = item.sequence
        follower = self._followers.get(sequence)
        if follower is None or not item.samples:
            return
        if not result.error:
            follower.catch_up(sequence.tokens)
            taken = follower.accept(result.token_ids)
            # What verification found after the last token of a complete answer is an end token at most.
            del result.token_ids[taken:], result.logprobs[taken:]
            result.is_complete = follower.is_complete
        if follower.error is not None:
            result.invalid_param = "constraint"
            result.error = f"the answer cannot be continued within its constraint: {follower.error}."

    def propose(self, decoding: Iterable[Sequence]) -> None:
        """Draft the tokens that constraints force on sequences of which only the newest token is to be computed.

        Verification treats them like anybody's drafts, so the answer is the same as without, in fewer steps: what is
        forced is a text, which the model may after all cut into tokens in its own way.
        """
        for sequence in decoding if self.has_followers else ():
            follower = self._followers.get(sequence)
            if follower is not None and not sequence.drafts:
                follower.catch_up(sequence.tokens)
                sequence.drafts = follower.forced(self._most_forced)
                self._forced += len(sequence.drafts)

    def prune(self, decoding: Iterable[Sequence]) -> None:
        """Drop the drafts that constraints forbid; none may still be pending."""
        for sequence in decoding:
            follower = self._followers.get(sequence)
            if follower is not None and sequence.drafts:
                del sequence.drafts[follower.allowed_drafts(sequence.drafts) :]

    def stats(self) -> StructureStats:
        """A snapshot of all figures."""
        compiler = self._compiler.stats
        return StructureStats(
            compiled=compiler.compiled,
            refused=compiler.refused,
            hits=compiler.hits,
            compile_s=compiler.compile_s,
            masks=self._filler.masks if self._filler else 0,
            mask_s=self._filler.seconds if self._filler else 0.0,
            forced_tokens=self._forced,
        )

    def follows(self, sequence: Sequence) -> bool:
        """Whether a constraint has a say in the sequence's next tokens."""
        follower = self._followers.get(sequence)
        return follower is not None and not follower.is_idle

    def _request(self, sequence: Sequence) -> MaskRequest:
        may_end = not sequence.params.ignore_eos
        return MaskRequest(self._followers[sequence], sequence.tokens, list(sequence.drafts), may_end)
