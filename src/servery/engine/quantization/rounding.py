"""Rounding a weight to codes of 8 or 4 bits."""

import torch
from torch import Tensor

from servery.engine.quantization.matrix import GroupMatrix, pack_halves
from servery.engine.quantization.scheme import Rounding

# Values that are rounded at a time: temporaries of this size stay in a core's own cache.
_TILE_VALUES = 1 << 16


def rounded(weight: Tensor, rounding: Rounding) -> GroupMatrix:
    """`weight` [N, K], finite, rounded to codes.

    8 bits: symmetric, `scale = max |w| / 127` of a row. 4 bits: `scale = (max - min) / 15` of a group, where the range
    includes 0, and a zero point, the code of 0, so that zeros stay zeros. Scales are rounded to bfloat16, in which they
    are multiplied, before codes are made of them; those of rows, which are few, are held as float32, so that values are.
    """
    rows, columns = weight.shape
    size = rounding.group_size or columns
    codes = torch.empty((rows, columns), dtype=torch.int8 if rounding.bits == 8 else torch.uint8)
    scales, zeros = torch.empty(rows, columns // size), torch.zeros(rows, columns // size)
    step = max(1, _TILE_VALUES // columns)
    for first in range(0, rows, step):
        tile = slice(first, first + step)
        values = weight[tile].float().view(-1, columns // size, size)
        fit = _symmetric(values) if rounding.bits == 8 else _asymmetric(values)
        codes[tile] = _codes(values, *fit, rounding.bits).flatten(1)
        scales[tile], zeros[tile] = (each.squeeze(2) for each in fit)
    if rounding.bits == 8:
        return GroupMatrix(codes, scales)
    return GroupMatrix(pack_halves(codes), scales.bfloat16(), zeros.to(torch.uint8), bits=4)


def _symmetric(values: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and zero points [N, G, 1] of `values` [N, G, size]."""
    scales = (values.abs().amax(2, keepdim=True) / 127).bfloat16().float()
    return scales.masked_fill_(scales == 0, 1.0), torch.zeros_like(scales)


def _asymmetric(values: Tensor) -> tuple[Tensor, Tensor]:
    low, high = values.amin(2, keepdim=True).clamp_(max=0), values.amax(2, keepdim=True).clamp_(min=0)
    scales = ((high - low) / 15).bfloat16().float()
    scales.masked_fill_(scales == 0, 1.0)
    return scales, (-low / scales).round_().clamp_(0, 15)


def _codes(values: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    low, high = (-127, 127) if bits == 8 else (0, 15)
    return (values / scales).round_().add_(zeros).clamp_(low, high)
