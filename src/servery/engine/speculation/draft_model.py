"""A second, smaller model that drafts for the first.

Its keys and values lie in a cache of their own under the *same* block tables: block 7 of a sequence is block 7 in both
caches. Sharing, preemption and rollback therefore hold for it as for the target. What its cache lacks (after a prefix
hit on blocks that were never drafted for, after steps without drafts) is computed before it drafts.

What a block holds is known by its digest, which stands for every token up to its end: if the draft model filled the
block under the same digest, its keys and values are right whoever filled it. Slots of drafts that were rejected are
overwritten when their positions are computed again.
"""

import math
from dataclasses import dataclass, field
from time import thread_time
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.block_tables import BlockTables
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.request import Sequence
from servery.engine.sampler import largest
from servery.engine.sampling_rows import SamplingRows
from servery.engine.speculation.confidence import confidences, grade
from servery.engine.speculation.proposal import draw_proposals, is_coupled, proposal_probs
from servery.engine.speculation.proposer import PENDING, DraftCost, Drafted, Offer, Stakes
from servery.engine.step import Step, shortened
from servery.engine.step_cost import StepCost

_WARM_UP_PASSES = 4

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


@dataclass(slots=True)
class _Draft:
    """What is drafted for one sequence in this step. `reach`: the chance that all of it stands."""

    sequence: Sequence
    limit: int
    tokens: list[int] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    grades: list[int] = field(default_factory=list)
    reach: float = 1.0
    is_ended: bool = False

    def judge(self, number: int, stakes: Stakes | None) -> None:
        """Note the grade of the next token; drafting ends before one that is not worth to be verified."""
        self.grades.append(number)
        if stakes is not None:
            self.reach *= stakes.chances[number]
            self.is_ended = self.reach < stakes.row


class DraftModel:
    """Proposes what another decoder with the same tokens says; all sequences are drafted for together.

    `vocab_size` is the target's, which may count unused ids more or fewer than the drafter's.
    """

    def __init__(self, model: Decoder, cache: KVCache, rows: SamplingRows, vocab_size: int) -> None:
        self._model = model
        self._cache = cache
        self._tables = BlockTables()
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

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Measure passes of one token and of a block; they leave nothing behind.

        The first of each takes longer than any later. Without a measure of both, nothing was known of what it takes to
        begin with a sequence, and it might never be tried.
        """
        size = self._cache.block_size
        for number in range(_WARM_UP_PASSES):
            for tokens in ([0], [0] * size):
                started = thread_time()
                hidden = self._model.forward(Batch.build([(tokens, 0, [0])], size, self._tables), self._cache)
                confidences(self._target_logits(hidden[-1:]))
                if number:
                    self._observe(1, len(tokens), thread_time() - started)

    @property
    def kinds(self) -> int:
        """One: a model is as good here as there."""
        return 1

    def pass_cost(self, rows: int) -> DraftCost | None:
        """What a step of the draft model takes, as measured; with many rows more is fixed than with few."""
        cost = self._pass_costs.get(rows.bit_length(), self._any_pass_cost)
        return DraftCost(cost.fixed_s, cost.per_token_s, stops_early=True) if cost.predict(rows) else None

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
    def complete(self, step: Step, stakes: Stakes | None = None) -> Drafted:
        """Compute what the cache lacks, then draft for all sequences at once, one token of each at a time."""
        pending = [item for item in step.scheduled if item.num_drafts and item.sequence.drafts[0] == PENDING]
        preparing, self._preparing = self._rows_to_prepare(step), []
        if not pending and not preparing:
            return Drafted(step, {}, {})
        drafts = [_Draft(item.sequence, item.num_drafts) for item in pending]
        rows = [self._first_row(draft.sequence) for draft in drafts]
        self._pass([*rows, *preparing.values()], drafts, stakes)
        for sequence, (tokens, start, _) in preparing.items():
            self._note(sequence, start + len(tokens), [])
        going_on = drafts
        while going_on := _going_on(going_on, stakes):
            self._pass([self._next_row(draft) for draft in going_on], going_on, stakes)
        for draft in drafts:
            draft.sequence.drafts[:] = draft.tokens
            self._note(draft.sequence, len(draft.sequence.tokens), draft.tokens[: len(draft.grades) - 1])
        proposals = {draft.sequence: torch.cat(draft.probs) for draft in drafts if draft.probs}
        return Drafted(shortened(step), proposals, {draft.sequence: draft.grades for draft in drafts})

    def _pass(self, rows: list[_Row], drafts: list["_Draft"], stakes: Stakes | None) -> None:
        """Compute `rows`, and after the last token of each of the first ones draw one more of `drafts`."""
        started = thread_time()
        batch = Batch.build(rows, self._cache.block_size, self._tables)
        hidden = self._model.forward(batch, self._cache)
        if drafts:
            if len(hidden) > len(drafts):
                ends = (batch.query_starts + batch.counts - 1)[: len(drafts)]
                hidden = hidden.index_select(0, torch.from_numpy(ends))
            self._draw(drafts, self._target_logits(hidden), stakes)
        self._observe(len(rows), len(batch.input_ids), thread_time() - started)

    def _draw(self, drafts: list["_Draft"], logits: Tensor, stakes: Stakes | None) -> None:
        """Draw a token for each of `drafts` from its row of `logits`, unless it is too doubtful to be verified."""
        if all(draft.sequence.takes_largest for draft in drafts) and (token_ids := largest(logits)) is not None:
            for draft, token, confidence in zip(drafts, token_ids, confidences(logits), strict=True):
                draft.judge(grade(confidence, is_greedy=True), stakes)
                if not draft.is_ended:
                    draft.tokens.append(token)
            return
        for draft, confidence in zip(drafts, confidences(logits), strict=True):
            draft.judge(grade(confidence, is_greedy=draft.sequence.params.is_greedy), stakes)
        kept = [at for at, draft in enumerate(drafts) if not draft.is_ended]
        if not kept:
            return
        if len(kept) < len(drafts):
            drafts, logits = [drafts[at] for at in kept], logits[kept]
        sampling = [self._rows.row(draft.sequence, draft.tokens) for draft in drafts]
        drawn = [at for at, row in enumerate(sampling) if not is_coupled(row.params)]
        if drawn:
            probs = proposal_probs(logits[drawn], [sampling[at] for at in drawn], self._rows.sampler)
            for at, each in zip(drawn, probs[:, None], strict=True):
                drafts[at].probs.append(each)
        for draft, token in zip(drafts, draw_proposals(logits, sampling, self._rows.sampler), strict=True):
            draft.tokens.append(token)

    def _observe(self, num_rows: int, num_tokens: int, seconds: float) -> None:
        if num_tokens <= 2 * num_rows:  # after a step in which every draft was accepted, two tokens are new
            self._any_pass_cost.observe(num_rows, seconds)
            self._pass_costs.setdefault(num_rows.bit_length(), StepCost()).observe(num_rows, seconds)
        self._entry_cost.observe(num_tokens, seconds)

    def _first_row(self, sequence: Sequence) -> _Row:
        """What has to be computed for a sequence's first draft."""
        start = self._caught_up(sequence).final
        return self._row(sequence, sequence.tokens[start:], start)

    def _next_row(self, draft: "_Draft") -> _Row:
        """What has to be computed for the draft after the newest."""
        return self._row(draft.sequence, draft.tokens[-1:], len(draft.sequence.tokens) + len(draft.tokens) - 1)

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


def _going_on(drafts: list[_Draft], stakes: Stakes | None) -> list[_Draft]:
    """Of the drafts of a pass those that one more is for; none if it does not pay."""
    able = [draft for draft in drafts if not draft.is_ended and len(draft.tokens) < draft.limit]
    if stakes is None:
        return able
    cost = stakes.row + stakes.pass_row
    worth = [draft.reach * stakes.usual.get(draft.sequence, 1.0) - cost for draft in able]
    if sum(max(each, 0.0) for each in worth) <= stakes.pass_fixed:
        return []
    return [draft for draft, each in zip(able, worth, strict=True) if each > 0]
