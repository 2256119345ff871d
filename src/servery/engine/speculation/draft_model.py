"""A second, smaller model that drafts for the first.

Its keys and values lie in a cache of their own under the *same* block tables: block 7 of a sequence is block 7 in both
caches. Sharing, preemption and rollback therefore hold for it as for the target. What its cache lacks (after a prefix
hit on blocks that were never drafted for, after steps without drafts) is computed before it drafts.

What a block holds is known by its digest, which stands for every token up to its end: if the draft model filled the
block under the same digest, its keys and values are right whoever filled it. Slots of drafts that were rejected are
overwritten when their positions are computed again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import thread_time
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.request import Sequence
from servery.engine.sampling_rows import SamplingRows
from servery.engine.speculation.proposal import draw_proposals, is_coupled, proposal_probs
from servery.engine.speculation.proposer import PENDING, DraftCost, Offer
from servery.engine.step import Step
from servery.engine.step_cost import StepCost

_Row = tuple[list[int], int, list[int]]  # of a batch: tokens, position of the first, block table


@dataclass(slots=True)
class _Written:
    """How far the draft model's cache holds a sequence, as long as its block table is `table`.

    Positions [0, `final`) hold its tokens; those after them hold `guesses`, which may or may not come true. `marked`
    leading blocks are known by their digests.
    """

    table: list[int]
    final: int = 0
    guesses: list[int] = field(default_factory=list)
    marked: int = 0


class DraftModel:
    """Proposes what another decoder with the same tokens says; all sequences are drafted for together.

    `vocab_size` is the target's, which may count unused ids more or fewer than the drafter's.
    """

    def __init__(self, model: Decoder, cache: KVCache, rows: SamplingRows, vocab_size: int) -> None:
        self._model = model
        self._cache = cache
        self._rows = rows
        self._vocab_size = vocab_size
        self._written: WeakKeyDictionary[Sequence, _Written] = WeakKeyDictionary()
        self._digests: dict[int, bytes] = {}  # of the blocks that are filled, by their number
        # Of passes by the bits of the number of rows; what is not measured follows from all.
        self._pass_costs: dict[int, StepCost] = {}
        self._any_pass_cost, self._entry_cost = StepCost(), StepCost()
        self._preparing: list[tuple[Sequence, int]] = []

    def forget(self) -> None:
        """What was computed into blocks is lost."""
        self._digests.clear()

    @property
    def kinds(self) -> int:
        """One: a model is as good here as there."""
        return 1

    def pass_cost(self, rows: int) -> DraftCost | None:
        """What a step of the draft model takes, as measured; with many rows more is fixed than with few."""
        cost = self._pass_costs.get(rows.bit_length(), self._any_pass_cost)
        return DraftCost(cost.fixed_s, cost.per_token_s) if cost.predict(rows) else None

    def entry_s(self, tokens: int) -> float:
        """Seconds that so many tokens of context make a step of the draft model longer, as measured."""
        return self._entry_cost.per_token_s * tokens

    def offer(self, sequence: Sequence, limit: int) -> Offer | None:
        """Pending drafts, as far as the draft model's own context goes."""
        limit = min(limit, self._model.config.max_position - len(sequence.tokens))
        if limit < 1:
            return None
        return Offer([PENDING] * limit, 0, len(sequence.tokens) - 1 - self._caught_up(sequence).final)

    def prepare(self, sequence: Sequence, tokens: int) -> None:
        """Compute so many tokens of its context in this step, so that it can be drafted for in a later one."""
        self._preparing.append((sequence, tokens))

    @torch.inference_mode()
    def complete(self, step: Step) -> Mapping[Sequence, Tensor]:
        """Compute what the cache lacks, then draft for all sequences at once, one token of each at a time."""
        drafting = [item for item in step.scheduled if item.num_drafts and item.sequence.drafts[0] == PENDING]
        preparing, self._preparing = self._rows_to_prepare(step), []
        if not drafting and not preparing:
            return {}
        drafts: dict[Sequence, list[int]] = {item.sequence: [] for item in drafting}
        proposals: dict[Sequence, list[Tensor]] = {item.sequence: [] for item in drafting}
        at = 0
        while drafting or preparing:
            self._pass([item.sequence for item in drafting], preparing, drafts, proposals)
            at, preparing = at + 1, {}
            drafting = [item for item in drafting if item.num_drafts > at]
        for sequence, tokens in drafts.items():
            sequence.drafts[:] = tokens
            self._note(sequence, len(sequence.tokens), tokens[:-1])
        return {sequence: torch.cat(probs) for sequence, probs in proposals.items() if probs}

    def _pass(
        self,
        sequences: list[Sequence],
        preparing: Mapping[Sequence, _Row],
        drafts: dict[Sequence, list[int]],
        proposals: dict[Sequence, list[Tensor]],
    ) -> None:
        """Draft one more token for `sequences`; `proposals` gets the distributions of those drawn by chance."""
        started = thread_time()
        rows = [self._next_row(sequence, drafts[sequence]) for sequence in sequences]
        ends = torch.tensor([len(tokens) for tokens, _, _ in rows]).cumsum(0)
        hidden = self._model.forward(Batch.build([*rows, *preparing.values()], self._cache.block_size), self._cache)
        for sequence, (tokens, start, _) in preparing.items():
            self._note(sequence, start + len(tokens), [])
        if sequences:
            logits = self._target_logits(hidden.index_select(0, ends - 1))
            sampling = [self._rows.row(sequence, drafts[sequence]) for sequence in sequences]
            drawn = [at for at, row in enumerate(sampling) if not is_coupled(row.params)]
            if drawn:
                probs = proposal_probs(logits[drawn], [sampling[at] for at in drawn])
                for at, each in zip(drawn, probs[:, None], strict=True):
                    proposals[sequences[at]].append(each)
            for sequence, token in zip(sequences, draw_proposals(logits, sampling), strict=True):
                drafts[sequence].append(token)
        self._observe(len(rows), len(hidden), thread_time() - started)

    def _observe(self, num_rows: int, num_tokens: int, seconds: float) -> None:
        if num_tokens <= 2 * num_rows:  # after a step in which every draft was accepted, two tokens are new
            self._any_pass_cost.observe(num_rows, seconds)
            self._pass_costs.setdefault(num_rows.bit_length(), StepCost()).observe(num_rows, seconds)
        self._entry_cost.observe(num_tokens, seconds)

    def _next_row(self, sequence: Sequence, drafts: list[int]) -> _Row:
        """What has to be computed for the token after `drafts`; blocks for it are reserved."""
        start = len(sequence.tokens) + len(drafts) - 1 if drafts else self._caught_up(sequence).final
        tokens = drafts[-1:] if drafts else sequence.tokens[start:]
        return self._row(sequence, tokens, start)

    def _rows_to_prepare(self, step: Step) -> dict[Sequence, _Row]:
        in_step = {item.sequence for item in step.scheduled}
        rows = {}
        for sequence, count in self._preparing:
            start = self._caught_up(sequence).final
            tokens = sequence.tokens[start : min(start + count, sequence.computed)]
            if sequence in in_step and tokens:
                rows[sequence] = self._row(sequence, tokens, start)
        return rows

    def _row(self, sequence: Sequence, tokens: list[int], start: int) -> _Row:
        size, vocab_size = self._cache.block_size, self._model.config.vocab_size
        for index in range(start // size, (start + len(tokens) - 1) // size + 1):
            self._digests.pop(sequence.block_ids[index], None)  # until it is full again
        if vocab_size < self._vocab_size:  # an id that only the target has is seen as the last one
            tokens = [min(token, vocab_size - 1) for token in tokens]
        return tokens, start, sequence.block_ids

    def _target_logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, the target's vocab_size]; ids that the draft model lacks are impossible."""
        logits = self._model.logits(hidden)[:, : self._vocab_size]
        missing = self._vocab_size - logits.shape[1]
        return torch.nn.functional.pad(logits, (0, missing), value=-math.inf) if missing else logits

    def _caught_up(self, sequence: Sequence) -> _Written:
        """What is written of the sequence, with the guesses that came true; a new block table starts anew."""
        written, tokens = self._written.get(sequence), sequence.tokens
        if written is None or written.table is not sequence.block_ids:
            written = self._written[sequence] = _Written(sequence.block_ids)
            written.marked = self._known_blocks(sequence)
            written.final = written.marked * self._cache.block_size
        for guess in written.guesses:
            if written.final == len(tokens) - 1 or guess != tokens[written.final]:
                break
            written.final += 1
        written.guesses = []
        self._mark(sequence, written)
        return written

    def _known_blocks(self, sequence: Sequence) -> int:
        """How many leading blocks are filled with this sequence's tokens, the newest one's aside."""
        usable = min((len(sequence.tokens) - 1) // self._cache.block_size, len(sequence.digests))
        known = 0
        while known < usable and self._digests.get(sequence.block_ids[known]) == sequence.digests[known]:
            known += 1
        return known

    def _note(self, sequence: Sequence, final: int, guesses: list[int]) -> None:
        """Record what was written."""
        written = self._written[sequence]
        written.final, written.guesses = final, guesses
        self._mark(sequence, written)

    def _mark(self, sequence: Sequence, written: _Written) -> None:
        """Make the blocks known that are full; those of generated tokens get their digests only later."""
        full = min(written.final // self._cache.block_size, len(sequence.digests))
        for number in range(written.marked, full):
            self._digests[sequence.block_ids[number]] = sequence.digests[number]
        written.marked = max(written.marked, full)
