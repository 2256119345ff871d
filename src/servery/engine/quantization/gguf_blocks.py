"""GGUF's quantized blocks as matrices of codes and scales. The values equal `gguf.quants.dequantize` bit for bit.

A row is a sequence of blocks of 32 or 256 weights, each with its own scales beside the codes (ggml-common.h in
ggml-org/ggml). Blocks come as uint8 [N, blocks per row, bytes per block].
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from servery.engine.quantization.matrix import GroupMatrix, pack_halves
from servery.engine.quantization.nested_matrix import NestedMatrix

_FLOAT = torch.float32


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 number at byte `at` of each block: [N, B]."""
    return blocks[..., at : at + 2].clone(memory_format=torch.contiguous_format).view(torch.float16).squeeze(2)


def _halves(quants: Tensor) -> Tensor:
    """Codes of 4 bits, [N, B, groups, n] bytes -> [N, B, groups, 2 n]: all low halves of a group, then its high ones."""
    return torch.cat((quants & 15, quants >> 4), dim=3)


def _split(blocks: Tensor, *sizes: int) -> Tensor:
    """[N, B, ...] -> [N, B, *sizes]."""
    return blocks.reshape(*blocks.shape[:2], *sizes)


def _rows(codes: Tensor) -> Tensor:
    """[N, ...] -> [N, K], a copy: the file may change."""
    return codes.reshape(codes.shape[0], -1).clone(memory_format=torch.contiguous_format)


def _packed(codes: Tensor) -> Tensor:
    """Codes of 4 bits, two in a byte: [N, K / 2]."""
    return pack_halves(codes.flatten(1))


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """The bits of the 4 bytes at `at`, each at the place of a code's fifth bit: [N, B, 32]."""
    places = torch.arange(8, dtype=torch.uint8)
    bits = (blocks[..., at : at + 4].unsqueeze(3) >> places) & 1
    return bits.flatten(2) << 4


def _q8_0(blocks: Tensor) -> GroupMatrix:
    codes = _rows(blocks[..., 2:]).view(torch.int8)
    return GroupMatrix(codes, _half(blocks, 0), arithmetic=_FLOAT)


def _q4_0(blocks: Tensor) -> GroupMatrix:
    codes = _packed(_halves(blocks[..., None, 2:]))
    return GroupMatrix(codes, _half(blocks, 0), zeros=8, bits=4, arithmetic=_FLOAT)


def _q4_1(blocks: Tensor) -> GroupMatrix:
    codes = _packed(_halves(blocks[..., None, 4:]))
    return GroupMatrix(codes, _half(blocks, 0), minima=-_half(blocks, 2), bits=4, arithmetic=_FLOAT)


def _q5_0(blocks: Tensor) -> GroupMatrix:
    codes = _halves(blocks[..., None, 6:]).squeeze(2) | _fifth_bits(blocks, 2)
    return GroupMatrix(_rows(codes), _half(blocks, 0), zeros=16, arithmetic=_FLOAT)


def _q5_1(blocks: Tensor) -> GroupMatrix:
    codes = _halves(blocks[..., None, 8:]).squeeze(2) | _fifth_bits(blocks, 4)
    return GroupMatrix(_rows(codes), _half(blocks, 0), minima=-_half(blocks, 2), arithmetic=_FLOAT)


def _scale_codes(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the minimum of each of the 8 groups of a Q4_K or Q5_K block, of 6 bits: uint8 [N, 8 B] each.

    They lie in the 12 bytes from 4 on. The first four of either kind are whole bytes but for the highest two bits,
    which belong to the last four.
    """
    scales, minima, rest = _split(blocks[..., 4:16], 3, 4).unbind(2)
    last_scales = (rest & 15) | ((scales >> 2) & 48)
    last_minima = (rest >> 4) | ((minima >> 2) & 48)
    return _rows(torch.cat((scales & 63, last_scales), dim=2)), _rows(torch.cat((minima & 63, last_minima), dim=2))


def _with_minima(codes: Tensor, blocks: Tensor, bits: int) -> NestedMatrix:
    """The matrix of Q4_K or Q5_K blocks, whose first four bytes are the units of scales and minima."""
    scale_codes, minimum_codes = _scale_codes(blocks)
    return NestedMatrix(codes, scale_codes, _half(blocks, 0), minimum_codes, _half(blocks, 2), bits=bits)


def _q4_k(blocks: Tensor) -> NestedMatrix:
    return _with_minima(_packed(_halves(_split(blocks[..., 16:], 4, 32))), blocks, bits=4)


def _q5_k(blocks: Tensor) -> NestedMatrix:
    codes = _split(_halves(_split(blocks[..., 48:], 4, 32)), 8, 32)
    places = torch.arange(8, dtype=torch.uint8).unsqueeze(1)
    fifth_bits = ((blocks[..., None, 16:48] >> places) & 1) << 4
    return _with_minima(_rows(codes | fifth_bits), blocks, bits=8)


def _q6_k(blocks: Tensor) -> NestedMatrix:
    low = _split(blocks[..., :128], 2, 1, 64) >> torch.tensor([[0], [4]], dtype=torch.uint8)
    high = _split(blocks[..., 128:192], 2, 1, 32) >> torch.tensor([[0], [2], [4], [6]], dtype=torch.uint8)
    codes = (low & 15).flatten(2) | ((high & 3) << 4).flatten(2)
    scale_codes = _rows(blocks[..., 192:208]).view(torch.int8)
    return NestedMatrix(_rows(codes), scale_codes, _half(blocks, 208), zeros=32)


DECODERS: Mapping[str, Callable[[Tensor], GroupMatrix | NestedMatrix]] = {
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
# Bits per weight of these matrices, scales and all.
HELD_BITS: Mapping[str, float] = {
    "F16": 16,
    "BF16": 16,
    "Q8_0": 8.5,
    "Q4_0": 4.5,
    "Q4_1": 5,
    "Q5_0": 8.5,
    "Q5_1": 9,
    "Q4_K": 4.625,
    "Q5_K": 8.625,
    "Q6_K": 8.5625,
}
