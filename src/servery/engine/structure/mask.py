"""The tokens that a row may choose, as bits, and what they do to logits."""

from collections.abc import Sequence
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
