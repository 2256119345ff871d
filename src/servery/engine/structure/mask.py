"""The tokens that a row may choose, as bits, and what they do to logits."""

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# One row's allowed tokens, lowest id in the lowest bit: at least ceil(V / 32) words.
Mask: TypeAlias = NDArray[np.int32]


def forbid(logits: Tensor, masks: Sequence[tuple[int, Mask]]) -> None:
    """Set to -inf, in place, what each (row, mask) does not allow in `logits` [R, V]."""
    packed = np.stack([mask for _, mask in masks]).view(np.uint8)
    bits = np.unpackbits(packed, axis=1, count=logits.shape[1], bitorder="little")
    is_allowed = torch.from_numpy(bits).to(logits.device).bool()
    rows = torch.tensor([row for row, _ in masks], device=logits.device)
    logits[rows] = logits[rows].masked_fill_(~is_allowed, -torch.inf)


def keep_only(logits: Tensor, choices: Sequence[tuple[int, Collection[int]]]) -> None:
    """Set to -inf, in place, all of `logits` [R, V] but the tokens of each (row, token ids)."""
    for row, token_ids in choices:
        at = torch.tensor(sorted(token_ids), device=logits.device)
        kept = logits[row, at]
        logits[row] = -torch.inf
        logits[row, at] = kept


def bar(logits: Tensor, barred: Sequence[tuple[int, Collection[int]]]) -> None:
    """Set to -inf, in place, the tokens of each (row, token ids) in `logits` [R, V]."""
    flat = [row * logits.shape[1] + token_id for row, token_ids in barred for token_id in token_ids]
    logits.view(-1)[torch.tensor(flat, dtype=torch.int64, device=logits.device)] = -torch.inf
