"""Runs one step on the model: a decided `Step` in, a result for each sequence out. Decides nothing itself."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.lora.pool import AdapterPool
from servery.engine.request import Sequence, TokenLogprobs
from servery.engine.sampler import SamplingRow, token_logprobs
from servery.engine.sampling_rows import SamplingRows
from servery.engine.scheduler import Scheduled, Step, StepResult
from servery.engine.speculation.verification import Check, verify
from servery.engine.structure.mask import Mask
from servery.engine.structure.structure import PendingMasks, Structure


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

    @torch.inference_mode()
    def run(self, step: Step, proposals: Mapping[Sequence, Tensor] | None = None) -> dict[Sequence, StepResult]:
        """Compute the step's tokens and drafts, write their KV and sample where the newest token is reached.

        Drafts are verified: the result has those that stand and one token after them. `proposals` are the
        distributions [drafts, V] of those that were drawn by chance. A sequence whose logits are not finite gets a
        result with `error` set; the others are unaffected.
        """
        step = self._adapters.arranged(step)
        pending = self._structure.start(step) if self._structure is not None else PendingMasks([], None)
        batch = Batch.build([_row(item) for item in step.scheduled], self._cache.block_size)
        with self._adapters.decoder(step, batch) as decoder:
            hidden = decoder.forward(batch, self._cache)
        starts = _starts(step)
        results = {item.sequence: StepResult() for item in step.scheduled}
        for item, start in zip(step.scheduled, starts, strict=True):
            rows = hidden[start : start + item.count]
            if item.sequence.parent.pooling:
                results[item.sequence].embedding = self._pool(item, rows)
            if item.sequence.params.prompt_logprobs is not None and not item.sequence.is_prompt_reported:
                results[item.sequence].prompt_logprobs = self._score_prompt(item, rows)
        self._sample(step, hidden, starts, results, proposals or {}, pending)
        if self._structure is not None:
            for item in step.scheduled:
                self._structure.judge(item, results[item.sequence])
        return results

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

    def _sample(
        self,
        step: Step,
        hidden: Tensor,
        starts: list[int],
        results: dict[Sequence, StepResult],
        proposals: Mapping[Sequence, Tensor],
        pending: PendingMasks,
    ) -> None:
        sampling = [
            (item, start + item.count)
            for item, start in zip(step.scheduled, starts, strict=True)
            if item.samples and not item.sequence.parent.pooling
        ]
        if not sampling:
            return
        wanted = [row for item, end in sampling for row in range(end - 1 - item.num_drafts, end)]
        logits = self._model.logits(hidden.index_select(0, torch.tensor(wanted)))
        masks = pending.wait()
        checks = [
            Check(
                _masked(self._rows.rows(item.sequence), masks.get(item.sequence)),
                item.sequence.drafts,
                proposals.get(item.sequence),
            )
            for item, _ in sampling
        ]
        for (item, _), verified in zip(sampling, verify(logits, checks), strict=True):
            result = results[item.sequence]
            result.token_ids, result.logprobs, result.error = verified


def _masked(rows: list[SamplingRow], allowed: list[Mask | None] | None) -> list[SamplingRow]:
    return rows if allowed is None else [row._replace(allowed=mask) for row, mask in zip(rows, allowed, strict=True)]


def _row(item: Scheduled) -> tuple[list[int], int, list[int]]:
    sequence, end = item.sequence, item.start + item.count
    if not item.num_drafts:
        return sequence.tokens[item.start : end], item.start, sequence.block_ids
    return [*sequence.tokens[item.start :], *sequence.drafts], item.start, sequence.block_ids


def _starts(step: Step) -> list[int]:
    starts, at = [], 0
    for item in step.scheduled:
        starts.append(at)
        at += item.count
    return starts
