"""Rounding a weight to codes of 8 or 4 bits, or to float8."""

import torch
from torch import Tensor

from servery.engine.quantization.matrix import Float8Matrix, GroupMatrix, pack_halves
from servery.engine.quantization.scheme import Rounding

# Values that are rounded at a time: temporaries of this size stay in a core's own cache.
_TILE_VALUES = 1 << 16
# The largest number of float8 e4m3.
_FLOAT8_MOST = 448.0


def coded(weight: Tensor, rounding: Rounding) -> GroupMatrix | Float8Matrix:
    """`weight` [N, K], finite, in the codes that `rounding` says."""
    return rounded_to_float8(weight) if rounding.is_float else rounded(weight, rounding)


def rounded_to_float8(weight: Tensor) -> Float8Matrix:
    """`weight` [N, K], finite, as float8 e4m3 times a float32 for each row, by which its largest magnitude becomes 448.

    Three bits of mantissa: a number moves by at most a sixteenth of itself, but those below 2^-15 of the row's largest.
    """
    rows, columns = weight.shape
    codes = torch.empty((rows, columns), dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, 1)
    step = max(1, _TILE_VALUES // columns)
    for first in range(0, rows, step):
        tile = slice(first, first + step)
        values = weight[tile].float()
        scale = values.abs().amax(1, keepdim=True) / _FLOAT8_MOST
        scale.masked_fill_(scale == 0, 1.0)
        codes[tile] = (values / scale).clamp_(-_FLOAT8_MOST, _FLOAT8_MOST).to(torch.float8_e4m3fn)
        scales[tile] = scale
    return Float8Matrix(codes, scales)


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
