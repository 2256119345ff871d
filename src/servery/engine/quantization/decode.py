"""Codes turned into values, many at once: torch's own ways go one by one on a CPU."""

import torch
from torch import Tensor

# float8 e4m3 has an exponent of four bits with bias 7, float16 of five with bias 15: 2 ** 8 lies between.
_BIAS_GAP = 256.0
_PAIR_TYPES = {2: torch.int32, 4: torch.int64}


def float8_values(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 e4m3 as `dtype`, exactly; a code that is not a number becomes 480.

    Sign, exponent and mantissa move to where float16 has them, subnormal numbers too.
    """
    bits = codes.view(torch.int8).to(torch.int16)
    return bits.bitwise_left_shift_(7).bitwise_and_(~(1 << 14)).view(torch.float16).mul_(_BIAS_GAP).to(dtype)


def codebook_values(packed: Tensor, values: Tensor) -> Tensor:
    """Bytes [N, K / 2] of two codes, the earlier in the low half, as the `values` [16] that they name: [N, K].

    A byte is looked up at once, in a table of all pairs.
    """
    byte = torch.arange(256, device=values.device)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=1).view(_PAIR_TYPES[values.itemsize]).flatten()
    return pairs.index_select(0, packed.flatten().int()).view(values.dtype).view(len(packed), -1)
