"""What the scheduler decides: a `Step`, a frozen value that the runner carries out and `commit` takes back."""

import enum

import msgspec

from servery.engine.request import Output, Sequence


class IdleReason(enum.Enum):
    """Why a step has nothing to run."""

    NO_REQUESTS = "no requests"
    NO_BLOCKS = "no blocks for any request"


class Scheduled(msgspec.Struct, frozen=True, gc=False):
    """Positions `[start, start + count)` of one sequence's tokens and drafts, to be computed in this step.

    `samples` says that the newest token is among them: the logits of the last `1 + num_drafts` positions are needed.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    num_drafts: int = 0


class Step(msgspec.Struct, frozen=True):
    """One iteration of the engine, decided at `now`; the blocks it writes to are reserved.

    `preempted` have lost their blocks and wait again; `refused` are the last outputs of requests whose deadline passed
    while they waited. `idle_reason` is set when nothing is scheduled.
    """

    scheduled: tuple[Scheduled, ...]
    preempted: tuple[Sequence, ...] = ()
    refused: tuple[Output, ...] = ()
    num_tokens: int = 0
    now: float = 0.0
    idle_reason: IdleReason | None = None

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for it: the background takes part in no step of others."""
        return bool(self.scheduled) and self.scheduled[0].sequence.is_background


def shortened(step: Step) -> Step:
    """The step without the drafts that its sequences have given up since it was decided; their blocks stay reserved."""
    if all(len(item.sequence.drafts) == item.num_drafts for item in step.scheduled):
        return step
    scheduled = tuple([_without_given_up(item) for item in step.scheduled])
    return msgspec.structs.replace(step, scheduled=scheduled, num_tokens=sum(item.count for item in scheduled))


def _without_given_up(item: Scheduled) -> Scheduled:
    given_up = item.num_drafts - len(item.sequence.drafts)
    if not given_up:
        return item
    return msgspec.structs.replace(item, count=item.count - given_up, num_drafts=item.num_drafts - given_up)


class StepPlan:
    """A step while it is being decided: the tokens granted so far, in order, and what is left of the budget.

    `limit` is the budget in tokens, `cap` what one sequence's prefill may take of it in the first round.
    """

    __slots__ = ("cap", "counts", "left", "limit", "preempted")

    def __init__(self, limit: int, cap: int) -> None:
        self.limit = self.left = limit
        self.cap = cap
        self.counts: dict[Sequence, int] = {}
        self.preempted: list[Sequence] = []

    def give(self, sequence: Sequence, count: int) -> None:
        """Grant `count` more tokens."""
        self.counts[sequence] = self.counts.get(sequence, 0) + count
        self.left -= count

    def take_back(self, sequence: Sequence) -> None:
        """Grant nothing to a sequence that has been preempted after all."""
        self.left += self.counts.pop(sequence, 0)
        self.preempted.append(sequence)

    def freeze(self, now: float, refused: tuple[Output, ...], idle_reason: IdleReason) -> Step:
        """The decided step; drafts that were not granted are dropped from their sequences."""
        scheduled = tuple([_scheduled(sequence, count) for sequence, count in self.counts.items()])
        return Step(
            scheduled,
            tuple(self.preempted),
            refused,
            self.limit - self.left,
            now,
            None if scheduled else idle_reason,
        )


def _scheduled(sequence: Sequence, count: int) -> Scheduled:
    start = sequence.computed
    beyond = start + count - len(sequence.tokens)  # of the granted positions, how many are drafts
    if sequence.drafts:
        del sequence.drafts[max(beyond, 0) :]
    return Scheduled(sequence, start, count, beyond >= 0, max(beyond, 0))
