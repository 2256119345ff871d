"""How keys and values are stored: as they are computed, or in 8 bits with a scale for each head of each token.

A scale belongs to one head's key or value of one token: what is stored for a token depends on nothing but its own
keys and values, so sharing blocks, preemption, chunks and overwritten drafts are the same as with any other format.
Codes are value / scale, rounded: to whole numbers within +-127 (int8), or to float8 e4m3 within +-448 (fp8, three
bits of mantissa; arXiv 2209.05433). So an int8 value is off by at most half of its scale, an fp8 value by at most a
sixteenth of itself or, near zero, 2^-10 of its scale.

Scales are bfloat16, rounded to nearest *before* they divide: the largest code becomes at most 127 (1 + 2^-8) < 127.5
and 448 (1 + 2^-8) < 464, which round to 127 and 448. So two bytes of scale cost no accuracy against four.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.config import KV_DTYPES
from servery.engine.errors import LoadError

SCALE_DTYPE = torch.bfloat16
_SMALLEST_SCALE = torch.finfo(SCALE_DTYPE).tiny
_HALF_STEP = 2.0**8


@dataclass(frozen=True, slots=True)
class KVFormat:
    """The `dtype` of stored values; `largest` is the largest code where they have scales, else None."""

    name: str
    dtype: torch.dtype
    largest: float | None = None

    def bytes_per_token(self, config: ModelConfig) -> int:
        """Memory of one position's keys, values and scales over all layers."""
        values = config.kv_bytes_per_token(1)
        scales = 0 if self.largest is None else values // scale_width(config)
        return values * self.dtype.itemsize + scales * SCALE_DTYPE.itemsize


FLOAT32 = KVFormat("float32", torch.float32)
BFLOAT16 = KVFormat("bfloat16", torch.bfloat16)
INT8 = KVFormat("int8", torch.int8, 127.0)
FP8 = KVFormat("fp8", torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max)

_FORMATS = {each.name: each for each in (FLOAT32, BFLOAT16, INT8, FP8)}


def scale_width(config: ModelConfig) -> int:
    """How many numbers share a scale: those of a head. A latent and the rotating key beside it share none.

    The two are of different size, and with one scale the larger would leave the other few of its codes.
    """
    return config.head_dim if config.latent is None else math.gcd(config.latent.kv_rank, config.latent.rope_dim)


def resolve_kv_format(name: str, dtype: torch.dtype, device: str = "cpu") -> KVFormat:
    """The format for an `EngineConfig.kv_dtype`; "auto" is `dtype`, that of the computation.

    Raises `LoadError` for an unknown name, and for fp8 where torch has no such type on `device`.
    """
    if name == "auto":
        return plain_format(dtype)
    if name not in _FORMATS:
        raise LoadError(f"kv_dtype is {name!r}; choose one of {', '.join(KV_DTYPES)}.")
    if name == FP8.name and not has_float8(device):
        raise LoadError(f"--kv-dtype fp8: torch {torch.__version__} has no float8 on {device}; choose int8 instead.")
    return _FORMATS[name]


def plain_format(dtype: torch.dtype) -> KVFormat:
    """Values stored in the `dtype` they are computed in."""
    return KVFormat(str(dtype).removeprefix("torch."), dtype)


def has_float8(device: str) -> bool:
    """Whether torch converts to float8 e4m3 and back on `device`; trying is the only way to ask."""
    try:
        there = torch.tensor([0.5, 448.0], device=device).to(torch.float8_e4m3fn)
        return there.to(torch.float32).tolist() == [0.5, 448.0]
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError; MPS raises a TypeError
        return False


def quantize(values: Tensor, kv_format: KVFormat) -> tuple[Tensor, Tensor]:
    """Codes [..., head_dim] and scales [...] of `values` [..., head_dim].

    A value that is not finite makes its scale so, and all that is read back of that head: nothing is hidden.
    """
    assert kv_format.largest is not None
    values = values.float()
    scales = (values.abs().amax(-1) / kv_format.largest).clamp_(min=_SMALLEST_SCALE).to(SCALE_DTYPE)
    codes = values / scales.float().unsqueeze(-1)
    if not kv_format.dtype.is_floating_point:
        codes.round_()
    return codes.to(kv_format.dtype), scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The values [..., head_dim] in `dtype` for `codes` of that shape and `scales` [...]: code times scale, rounded once."""
    if codes.dtype is torch.float8_e4m3fn:
        return _halves(codes).float().mul_((scales.float() * _HALF_STEP).unsqueeze(-1)).to(dtype)
    return codes.to(dtype).mul_(scales.to(dtype).unsqueeze(-1))


def _halves(codes: Tensor) -> Tensor:
    """float8 e4m3 as float16, each value divided by `_HALF_STEP`; a code that is not a number counts as 480.

    The four bits of exponent move to where float16 has five, whose bias is larger by 8: torch converts float8 one by
    one on a CPU, this does all at once. What is not a number has a scale that is not one.
    """
    bits = codes.view(torch.int8).to(torch.int16)
    return bits.bitwise_left_shift_(7).bitwise_and_(~(1 << 14)).view(torch.float16)
