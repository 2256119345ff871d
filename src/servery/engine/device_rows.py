"""What decides the next tokens of a step's rows, as arrays: so that a device chooses them without asking the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.request import SamplingParams

_MASK = 2**64 - 1


class DeviceRows(NamedTuple):
    """Of R rows: temperature float32 (0: greedy), top_k int32 (0: all), top_p and min_p float64, seeds and positions int64.

    `seeds` are the 64 bits of an unsigned seed; `positions` those of the tokens to be chosen.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor


def pack_rows(rows: Sequence[tuple[SamplingParams, int, int]]) -> list[NDArray[np.generic]]:
    """The arrays of rows of (parameters, seed, position)."""
    params = [row[0] for row in rows]
    seeds = np.array([row[1] & _MASK for row in rows], np.uint64).view(np.int64)
    return [
        np.array([p.temperature for p in params], np.float32),
        np.array([p.top_k for p in params], np.int32),
        np.array([p.top_p for p in params], np.float64),
        np.array([p.min_p for p in params], np.float64),
        seeds,
        np.array([row[2] for row in rows], np.int64),
    ]


def is_limited(params: Sequence[SamplingParams], vocab_size: int) -> bool:
    """Whether any row keeps only the most likely tokens, for which they have to be looked for."""
    return any(p.top_p < 1.0 or 0 < p.top_k < vocab_size for p in params)


def sample_greedily(logits: Tensor, rows: DeviceRows, *, limited: bool) -> Tensor:
    """The first largest of each row of `logits` [R, V], int64 [R]; -1 where it is not finite. For greedy rows only."""
    peaks, ids = logits.max(dim=-1)
    return torch.where(peaks.isfinite(), ids, -1)
