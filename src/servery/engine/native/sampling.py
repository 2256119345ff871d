"""`sampler.py` in one call of the native kernels: the same tokens from the same random numbers.

A token differs from that of the oracle only where two are as near to each other as float32 rounds.
"""

import math
from collections.abc import Sequence
from ctypes import byref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine import request
from servery.engine.native.choices import Choices, StandingChoices
from servery.engine.native.library import F32, ChosenStruct, NativeContext, rows_struct
from servery.engine.request import TokenLogprobs
from servery.engine.sampler import Sampled, SamplingRow, unusable

_CHOSEN = np.dtype(ChosenStruct)


class NativeSampler:
    """Samples with the threads of `context`; one thread at a time may use it."""

    def __init__(self, context: NativeContext) -> None:
        self._context = context
        self._chosen: NDArray[np.void] = np.zeros(1, _CHOSEN)
        self._standing = StandingChoices()

    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
        """Choose one token for each row of `logits` [R, V] (left unchanged); R must equal len(rows)."""
        return self._sample(logits, rows, [-1 if row.params.logprobs is None else row.params.logprobs for row in rows])

    def draw(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
        """As `sample`, without log probabilities."""
        return self._sample(logits, rows, [-1] * len(rows))

    def next_tokens(self, logits: Tensor, sequences: list[request.Sequence]) -> list[int] | None:
        """A token for each sequence; None if `sample` has to be asked, which can be told more than parameters."""
        choices = self._standing.of(sequences)
        if choices is None:
            return None
        chosen = self._run(logits, choices)
        token_ids: list[int] = chosen["token_id"].tolist()
        return token_ids if min(token_ids) >= 0 else None

    def warped_probs(self, logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
        """The distribution [R, V] that `sample` draws from, after all parameters; one-hot for greedy rows.

        A row with unusable logits is NaN.
        """
        probs = torch.empty(logits.shape)
        if len(rows):
            choices = Choices(rows, [-1] * len(rows))
            choices.array["probs"] = probs.data_ptr() + 4 * probs.stride(0) * np.arange(len(rows), dtype=np.uint64)
            self._run(logits, choices.array)
        return probs

    def _sample(self, logits: Tensor, rows: Sequence[SamplingRow], tops: Sequence[int]) -> list[Sampled]:
        if not rows:
            return []
        choices = Choices(rows, tops)
        chosen = self._run(logits, choices.array)
        token_ids = chosen["token_id"].tolist()
        if max(tops) < 0 and min(token_ids) >= 0:
            return [Sampled(token_id) for token_id in token_ids]
        return [_sampled(chosen[at], row, tops[at]) for at, row in enumerate(rows)]

    def _run(self, logits: Tensor, choices: NDArray[np.void]) -> NDArray[np.void]:
        """What was chosen [R], good until the next call."""
        logits = logits if logits.dtype == torch.float32 and logits.stride(1) == 1 else logits.float().contiguous()
        if len(choices) > len(self._chosen):
            self._chosen = np.zeros(2 * len(choices), _CHOSEN)
        given = rows_struct(logits.data_ptr(), F32, logits.stride(0))
        status = self._context.library.servery_sample(
            self._context.handle,
            len(choices),
            byref(given),
            logits.shape[1],
            choices.ctypes.data,
            self._chosen.ctypes.data,
        )
        if status:
            raise MemoryError(f"no memory to sample from {logits.shape[1]} tokens.")
        return self._chosen[: len(choices)]


def _sampled(chosen: np.void, row: SamplingRow, top: int) -> Sampled:
    peak, token_id = float(chosen["peak"]), int(chosen["token_id"])
    if not math.isfinite(peak):
        return Sampled(-1, error=unusable(row, peak))
    if top < 0:
        return Sampled(token_id)
    tops = min(int(chosen["tops"]), top)
    best = zip(chosen["top_ids"][:tops].tolist(), chosen["top_logprobs"][:tops].tolist(), strict=True)
    return Sampled(token_id, TokenLogprobs(token_id, float(chosen["logprob"]), list(best)))
