"""Codes as checkpoints pack them, in words of 32 bits, turned into codes as `GroupMatrix` holds them.

Words are read as bytes, lowest first, which is how a little-endian machine keeps them: a code of 4 bits that stands
lower in a word then stands in the low half of an earlier byte, as `GroupMatrix` has it, and nothing is computed.
"""

import torch
from torch import Tensor

from servery.engine.quantization.matrix import unpack_halves

# The columns that AutoAWQ puts into the eight places of a word, lowest place first, and the place of each column.
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
AWQ_PLACES = tuple(AWQ_COLUMNS.index(column) for column in range(8))
_LOWER_HALVES = 0x0F0F0F0F


def bytes_of(words: Tensor) -> Tensor:
    """Words [R, C] of any integer or float type as bytes [R, C * itemsize] uint8, in memory of their own."""
    return words.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def codes_of_rows(words: Tensor) -> Tensor:
    """Words [N, K * bits / 32] that pack neighbours in a row: bytes [N, K * bits / 8]."""
    return bytes_of(words)


def codes_of_columns(words: Tensor) -> Tensor:
    """Words [K * bits / 32, N] that pack neighbours in a column, as GPTQ: bytes [N, K * bits / 8]."""
    return words.t().contiguous().view(torch.uint8)


def integers_of_rows(words: Tensor, bits: int) -> Tensor:
    """Words [R, C] that pack neighbours in a row: whole numbers [R, C * 32 / bits] uint8."""
    packed = bytes_of(words)
    return packed if bits == 8 else unpack_halves(packed)


def awq_integers(words: Tensor) -> Tensor:
    """Words [R, C] that pack eight neighbours in AutoAWQ's interleaved order: whole numbers [R, 8 C] uint8."""
    places = unpack_halves(bytes_of(words)).view(len(words), -1, 8)
    return places[:, :, list(AWQ_PLACES)].flatten(1)


def awq_codes(words: Tensor) -> Tensor:
    """Words [K, N / 8] of AWQ weights: bytes [N, K / 2], K even.

    Two words of neighbouring input channels become two words of pairs: those of the lower halves of all bytes, and
    those of the upper ones. Byte j of the first holds the pair of place 2j, of the second that of place 2j + 1.
    """
    turned = words.t().contiguous()
    even, odd = turned[:, 0::2], turned[:, 1::2]
    lower = (even & _LOWER_HALVES) | ((odd & _LOWER_HALVES) << 4)
    upper = ((even >> 4) & _LOWER_HALVES) | (odd & ~_LOWER_HALVES)
    pairs = [half.view(torch.uint8).view(len(half), -1, 4) for half in (lower, upper)]
    columns = [pairs[place % 2][:, :, place // 2] for place in AWQ_PLACES]
    return torch.stack(columns, dim=1).flatten(0, 1)


def swapped_halves(packed: Tensor) -> Tensor:
    """Bytes with their halves exchanged: bitsandbytes keeps the earlier code in the high one."""
    return (packed << 4) | (packed >> 4)


def folded(zeros: Tensor) -> Tensor | int:
    """One number if all `zeros` are the same, as in symmetric checkpoints; else themselves."""
    first = int(zeros.flatten()[0])
    return first if bool((zeros == first).all()) else zeros
