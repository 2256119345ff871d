"""Runs one step on the model: a decided `Step` in, a result for each sequence out. Decides nothing itself."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.block_tables import BlockTables
from servery.engine.decoder import Decoder
from servery.engine.doorbell import Interrupted, Interruption
from servery.engine.kv import KVCache
from servery.engine.lora.pool import AdapterPool
from servery.engine.request import Sequence, TokenLogprobs
from servery.engine.sampler import SamplingRow, largest, token_logprobs
from servery.engine.sampling_rows import SamplingRows
from servery.engine.scheduler import Scheduled, Step, StepResult
from servery.engine.speculation.verification import Check, agreed, verify
from servery.engine.structure.mask import Mask
from servery.engine.structure.structure import PendingMasks, StepMasks, Structure


class Runner:
    """The model, its KV cache, and what a sequence's next step builds on; that goes when the sequence goes."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        adapters: AdapterPool,
        structure: Structure | None = None,
        rows: SamplingRows | None = None,
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._cache = cache
        self._structure = structure
        self._sums: WeakKeyDictionary[Sequence, Tensor] = WeakKeyDictionary()  # of embeddings, over several steps
        self._rows = SamplingRows() if rows is None else rows
        self._tables = BlockTables()

    @property
    def vocab_size(self) -> int:
        """How many tokens the model knows."""
        return self._model.config.vocab_size

    @torch.inference_mode()
    def run(
        self,
        step: Step,
        proposals: Mapping[Sequence, Tensor] | None = None,
        interruption: Interruption | None = None,
    ) -> dict[Sequence, StepResult]:
        """Compute the step's tokens and drafts, write their KV and sample where the newest token is reached.

        Drafts are verified: the result has those that stand and one token after them. `proposals` are the
        distributions [drafts, V] of those that were drawn by chance. A sequence whose logits are not finite gets a
        result with `error` set; the others are unaffected. Raises `Interrupted` as soon as `interruption` says so, which
        leaves nothing behind that a step with the same tokens would not overwrite.
        """
        step = self._adapters.arranged(step)
        pending = self.masks(step)
        batch = self.batch(step)
        try:
            with self._adapters.decoder(step, batch) as decoder:
                hidden = decoder.forward(batch, self._cache, interruption)
            if interruption is not None:
                interruption.check()
        except Interrupted:
            pending.wait()  # nobody else may use what they are computed by before
            raise
        return self.finish(step, batch, hidden, pending, proposals)

    def batch(self, step: Step) -> Batch:
        """The batch of a step."""
        return Batch.build([_row(item) for item in step.scheduled], self._cache.block_size, self._tables)

    def masks(self, step: Step) -> PendingMasks:
        """Begin to compute the masks that a step will need; all tokens of those who are constrained are known."""
        return self._structure.start(step) if self._structure is not None else PendingMasks([], None)

    def is_constrained(self, sequence: Sequence) -> bool:
        """Whether a constraint has a say in the sequence's next token."""
        return self._structure is not None and self._structure.follows(sequence)

    def choices(self, sequences: list[Sequence], masks: StepMasks) -> list[SamplingRow]:
        """What decides the next token of each sequence, with the first of its masks; drafts are passed over."""
        rows = [self._rows.row(sequence, []) for sequence in sequences]
        found = [masks.get(sequence, (None,))[0] for sequence in sequences]
        return [row if mask is None else row._replace(allowed=mask) for row, mask in zip(rows, found, strict=True)]

    @torch.inference_mode()
    def finish(
        self,
        step: Step,
        batch: Batch,
        hidden: Tensor,
        pending: PendingMasks,
        proposals: Mapping[Sequence, Tensor] | None = None,
    ) -> dict[Sequence, StepResult]:
        """The results of a step whose final hidden states are there; waits for them."""
        results = {item.sequence: StepResult() for item in step.scheduled}
        self._report_states(step, batch, hidden, results)
        self._sample(step, batch, hidden, results, proposals or {}, pending)
        self.judge(step, results)
        return results

    def judge(self, step: Step, results: Mapping[Sequence, StepResult]) -> None:
        """Let constraints follow what a step gave: in the results they say who is complete, and who cannot go on."""
        if self._structure is not None and self._structure.has_followers:
            for item in step.scheduled:
                self._structure.judge(item, results[item.sequence])

    def read_bytes(self, step: Step) -> int:
        """What a step has to read at least: the weights that its tokens need and the KV of every context in it."""
        context_tokens = sum(item.start + item.count for item in step.scheduled)
        token_bytes = self._cache.row_bytes * len(self._cache.layers)
        weight_bytes = self._model.read_bytes(step.num_tokens) + self._adapters.read_bytes(step)
        return weight_bytes + context_tokens * token_bytes

    def _pool(self, item: Scheduled, rows: Tensor) -> list[float] | None:
        """The mean of the final hidden states [hidden] once `rows` [count, hidden] complete the sequence."""
        total = rows.float().sum(0)
        if item.start > 0:  # position 0 starts afresh, also after a preemption
            total += self._sums.pop(item.sequence)
        if not item.samples:
            self._sums[item.sequence] = total
            return None
        mean: list[float] = (total / len(item.sequence.tokens)).tolist()
        return mean

    def _score_prompt(self, item: Scheduled, rows: Tensor) -> list[TokenLogprobs | None]:
        """Log probabilities of the prompt tokens that this chunk's rows [count, hidden] predict.

        The row at position p scores token p + 1, so the last prompt position scores nothing.
        """
        sequence, top = item.sequence, item.sequence.params.prompt_logprobs
        scores: list[TokenLogprobs | None] = [None] if item.start == 0 else []
        targets = sequence.tokens[item.start + 1 : min(item.start + item.count + 1, sequence.prompt_len)]
        if targets and top is not None:
            scores += token_logprobs(self._model.logits(rows[: len(targets)]), targets, top)
        return scores

    def _report_states(self, step: Step, batch: Batch, hidden: Tensor, results: dict[Sequence, StepResult]) -> None:
        """Embeddings and the log probabilities of prompts, for those who ask for them."""
        asking = [at for at, item in enumerate(step.scheduled) if item.sequence.asks_states]
        for at in asking:
            item = step.scheduled[at]
            if not item.sequence.needs_every_position:
                continue
            start = int(batch.query_starts[at])
            rows, result = hidden[start : start + item.count], results[item.sequence]
            if item.sequence.parent.pooling:
                result.embedding = self._pool(item, rows)
            if item.sequence.params.prompt_logprobs is not None:
                result.prompt_logprobs = self._score_prompt(item, rows)

    def _sample(
        self,
        step: Step,
        batch: Batch,
        hidden: Tensor,
        results: dict[Sequence, StepResult],
        proposals: Mapping[Sequence, Tensor],
        pending: PendingMasks,
    ) -> None:
        sampling = [item for item in step.scheduled if _predicts(item)]
        if not sampling:
            return
        logits = self._model.logits(_rows_to_sample(step, batch, hidden, len(sampling)))
        masks = pending.wait()
        if masks or any(item.num_drafts for item in sampling):
            self._verify(logits, sampling, results, proposals, masks)
        elif (token_ids := self._next(logits, sampling)) is not None:
            for item, token_id in zip(sampling, token_ids, strict=True):
                results[item.sequence].token_ids = [token_id]
        else:
            sampled = self._rows.sampler.sample(logits, [self._rows.row(item.sequence, []) for item in sampling])
            for item, (token_id, logprobs, error) in zip(sampling, sampled, strict=True):
                result = results[item.sequence]
                result.token_ids, result.error = [] if error else [token_id], error
                result.logprobs = [logprobs] if logprobs is not None else []

    def _largest(self, logits: Tensor, sampling: list[Scheduled]) -> list[int] | None:
        """The tokens if nobody asks for more than the largest logit, and all are usable; else None."""
        return largest(logits) if all(item.sequence.takes_largest for item in sampling) else None

    def _next(self, logits: Tensor, sampling: list[Scheduled]) -> list[int] | None:
        """The tokens that can be had without a row for each; else None."""
        if (token_ids := self._largest(logits, sampling)) is not None:
            return token_ids
        return self._rows.sampler.next_tokens(logits, [item.sequence for item in sampling])

    def _verify(
        self,
        logits: Tensor,
        sampling: list[Scheduled],
        results: dict[Sequence, StepResult],
        proposals: Mapping[Sequence, Tensor],
        masks: StepMasks,
    ) -> None:
        """Judge drafts, and keep to what constraints allow."""
        if not masks and (token_ids := self._largest(logits, sampling)) is not None:
            for item, tokens in zip(
                sampling, agreed([item.sequence.drafts for item in sampling], token_ids), strict=True
            ):
                results[item.sequence].token_ids = tokens
            return
        checks = [
            Check(
                _masked(self._rows.rows(item.sequence), masks.get(item.sequence)),
                item.sequence.drafts,
                proposals.get(item.sequence),
            )
            for item in sampling
        ]
        for item, verified in zip(sampling, verify(logits, checks, self._rows.sampler), strict=True):
            result = results[item.sequence]
            result.token_ids, result.logprobs, result.error = verified


def _rows_to_sample(step: Step, batch: Batch, hidden: Tensor, num_sampling: int) -> Tensor:
    """The rows that predict: of each row of the batch the last, and those before it that predict what drafts say."""
    if len(hidden) == num_sampling:  # everybody has one token, and wants the next
        return hidden
    ends = (batch.query_starts + batch.counts).tolist()
    wanted = [
        row
        for item, end in zip(step.scheduled, ends, strict=True)
        if _predicts(item)
        for row in range(end - 1 - item.num_drafts, end)
    ]
    return hidden.index_select(0, torch.tensor(wanted, device=hidden.device))


def _predicts(item: Scheduled) -> bool:
    return item.samples and not (item.sequence.asks_states and item.sequence.parent.pooling)


def _masked(rows: list[SamplingRow], allowed: list[Mask | None] | None) -> list[SamplingRow]:
    return rows if allowed is None else [row._replace(allowed=mask) for row, mask in zip(rows, allowed, strict=True)]


def _row(item: Scheduled) -> tuple[list[int], int, list[int]]:
    sequence, end = item.sequence, item.start + item.count
    if not item.num_drafts:
        return sequence.tokens[item.start : end], item.start, sequence.block_ids
    return [*sequence.tokens[item.start :], *sequence.drafts], item.start, sequence.block_ids
