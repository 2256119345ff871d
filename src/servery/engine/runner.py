"""Runs one step on the model: a decided `Step` in, a result for each sequence out. Decides nothing itself."""

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.request import Sequence, TokenLogprobs
from servery.engine.sampler import SamplingRow, sample, token_logprobs
from servery.engine.scheduler import Scheduled, Step, StepResult


class Runner:
    """The model, its KV cache, and the partial sums of embeddings that are computed over several steps."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._pooled: dict[Sequence, Tensor] = {}

    @torch.inference_mode()
    def run(self, step: Step) -> dict[Sequence, StepResult]:
        """Compute the step's tokens, write their KV and sample where the newest token is reached.

        A sequence whose logits are not finite gets a result with `error` set; the others are unaffected.
        """
        batch = Batch.build([_row(item) for item in step.scheduled], self._cache.block_size)
        hidden = self._model.forward(batch, self._cache)
        starts = _starts(step)
        results = {item.sequence: StepResult() for item in step.scheduled}
        self._pool(step, hidden, starts, results)
        self._score_prompts(step, hidden, starts, results)
        self._sample(step, hidden, starts, results)
        return results

    def forget(self, sequence: Sequence) -> None:
        """Drop what was kept for a sequence that will not run again."""
        self._pooled.pop(sequence, None)

    def _pool(self, step: Step, hidden: Tensor, starts: list[int], results: dict[Sequence, StepResult]) -> None:
        for item, start in zip(step.scheduled, starts, strict=True):
            sequence = item.sequence
            if not sequence.parent.pooling:
                continue
            total = hidden[start : start + item.count].float().sum(0)
            if item.start > 0:  # position 0 starts afresh, also after a preemption
                total += self._pooled.pop(sequence)
            if item.samples:
                mean = total / len(sequence.tokens)
                results[sequence] = StepResult(embedding=(mean / mean.norm().clamp_min(1e-12)).tolist())
            else:
                self._pooled[sequence] = total

    def _score_prompts(
        self, step: Step, hidden: Tensor, starts: list[int], results: dict[Sequence, StepResult]
    ) -> None:
        for item, start in zip(step.scheduled, starts, strict=True):
            top = item.sequence.params.prompt_logprobs
            if top is None or item.sequence.is_prompt_reported:
                continue
            # The row at position p scores token p + 1: rows [item.start, last) have a prompt token to score.
            last = min(item.start + item.count, item.sequence.prompt_len - 1)
            scores: list[TokenLogprobs | None] = [None] if item.start == 0 else []
            if last > item.start:
                logits = self._model.logits(hidden[start : start + last - item.start])
                targets = item.sequence.tokens[item.start + 1 : last + 1]
                scores += token_logprobs(logits, targets, top)
            results[item.sequence] = StepResult(prompt_logprobs=scores)

    def _sample(self, step: Step, hidden: Tensor, starts: list[int], results: dict[Sequence, StepResult]) -> None:
        sampling = [
            (item.sequence, start + item.count - 1)
            for item, start in zip(step.scheduled, starts, strict=True)
            if item.samples and not item.sequence.parent.pooling
        ]
        if not sampling:
            return
        logits = self._model.logits(hidden[[row for _, row in sampling]])
        rows = [_sampling_row(sequence) for sequence, _ in sampling]
        for (sequence, _), sampled in zip(sampling, sample(logits, rows), strict=True):
            results[sequence] = StepResult(
                token_ids=[sampled.token_id] if sampled.error is None else [],
                logprobs=[sampled.logprobs] if sampled.logprobs is not None else [],
                prompt_logprobs=results[sequence].prompt_logprobs,
                error=sampled.error,
            )


def read_bytes(step: Step, weight_bytes: int, kv_bytes_per_token: int) -> int:
    """What a step has to read at least: the weights once and the KV of every context in it."""
    context_tokens = sum(item.start + item.count for item in step.scheduled)
    return weight_bytes + context_tokens * kv_bytes_per_token


def _row(item: Scheduled) -> tuple[list[int], int, list[int]]:
    sequence = item.sequence
    return sequence.tokens[item.start : item.start + item.count], item.start, sequence.block_ids


def _starts(step: Step) -> list[int]:
    starts, at = [], 0
    for item in step.scheduled:
        starts.append(at)
        at += item.count
    return starts


def _sampling_row(sequence: Sequence) -> SamplingRow:
    return SamplingRow(
        params=sequence.params,
        seed=sequence.seed,
        position=len(sequence.tokens),
        prompt_len=sequence.prompt_len,
        tokens=sequence.tokens,
    )
