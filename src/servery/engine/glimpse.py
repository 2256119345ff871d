"""What steps consist of and how full the KV cache is, block by block: gathered only while somebody looks.

Who looks says so again and again; three seconds after the last time nothing is gathered any more, so that nobody has to
say that he has gone.
"""

from collections import deque

import msgspec

from servery.engine.blocks import BlockPool
from servery.engine.step import Step

LOOK_S = 3.0
EVERY_S = 0.9
MOST_STEPS = 240
MOST_CELLS = 1024


class StepMix(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One step: positions computed by why, the sequences that took part, how long it took."""

    decode_tokens: int
    prefill_tokens: int
    draft_tokens: int
    sequences: int
    step_ms: float


class Glimpse(msgspec.Struct, frozen=True, tag=True):
    """The newest steps since the last glimpse, of `num_steps` in all, and the blocks as they are now.

    `cells` has a byte for each `blocks_per_cell` blocks, in their order: the share of them that is held in its upper four
    bits, the share that is cached in the lower ones, in fifteenths and rounded up.
    """

    steps: list[StepMix]
    num_steps: int
    cells: bytes
    blocks_per_cell: int
    held_blocks: int
    cached_blocks: int
    shared_blocks: int

    def after(self, earlier: "Glimpse") -> "Glimpse":
        """This one with the steps of an `earlier` one that nobody has taken yet in front, the newest of all."""
        steps = [*earlier.steps, *self.steps][-MOST_STEPS:]
        return msgspec.structs.replace(self, steps=steps, num_steps=earlier.num_steps + self.num_steps)


class Onlooker:
    """Gathers for whoever looks. Time is passed in, in seconds of any clock that does not run backwards."""

    def __init__(self) -> None:
        self.is_on = False
        self._until_s = self._due_s = 0.0
        self._steps: deque[StepMix] = deque(maxlen=MOST_STEPS)
        self._num_steps = 0

    def look(self, now: float) -> None:
        """Somebody looks."""
        self._until_s = now + LOOK_S
        if not self.is_on:
            self.is_on, self._due_s = True, now

    def note(self, step: Step, elapsed_s: float) -> None:
        """A step was run; to be told only while `is_on`."""
        self._num_steps += 1
        self._steps.append(mix_of(step, elapsed_s))

    def glimpse(self, pool: BlockPool, now: float) -> Glimpse | None:
        """What there is to be seen; None if nobody looks, or it is too soon."""
        if now < self._due_s:
            return None
        steps, num_steps = list(self._steps), self._num_steps
        self._steps.clear()
        self._num_steps = 0
        if now >= self._until_s:
            self.is_on = False
            return None
        self._due_s = now + EVERY_S
        per_cell = -(-pool.num_blocks // MOST_CELLS)
        return Glimpse(
            steps=steps,
            num_steps=num_steps,
            cells=pool.cells(per_cell),
            blocks_per_cell=per_cell,
            held_blocks=pool.held_blocks,
            cached_blocks=pool.cached_blocks,
            shared_blocks=pool.shared_blocks,
        )


def mix_of(step: Step, elapsed_s: float) -> StepMix:
    """What a step consists of: one position of who decodes, drafts besides, all others are prefill."""
    decode_tokens = prefill_tokens = draft_tokens = 0
    for item in step.scheduled:
        own = item.count - item.num_drafts
        draft_tokens += item.num_drafts
        if own == 1 and item.samples:
            decode_tokens += 1
        else:
            prefill_tokens += own
    return StepMix(decode_tokens, prefill_tokens, draft_tokens, len(step.scheduled), round(1000 * elapsed_s, 3))
