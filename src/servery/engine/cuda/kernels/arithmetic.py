"""What several kernels compute with: matrix products, roundings, and the 8-bit formats of the KV cache.

Triton's interpreter, in which these kernels are tested without a GPU, multiplies bfloat16 wrongly, cuts it off instead
of rounding, and takes whole numbers for its bits, all without saying so: there `product` and `as_type` go round that.
"""

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
# Of stored values: as they are, or codes with scales.
PLAIN = tl.constexpr(0)
INT8 = tl.constexpr(1)
FP8 = tl.constexpr(2)
LOG2_E = tl.constexpr(1.4426950408889634)
# Added to a float32 below 2^22 and subtracted again it leaves the nearest whole number, of two the even one.
_ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def product(a, b, total):
    """`total + a @ b` in float32; operands in float32 are not rounded to fewer bits."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def as_type(x, TYPE: tl.constexpr):
    """The values of `x` in another type, rounded to nearest, of two the even one."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        kept = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.int16)
        return kept.to(tl.bfloat16, bitcast=True)
    return x.to(TYPE)


@triton.jit
def nearest_whole(x):
    """float32 below 2^22 rounded to the nearest whole number, of two the even one."""
    return (x + _ROUNDER) - _ROUNDER


@triton.jit
def bounded_tanh(x):
    """The hyperbolic tangent of a float32; for large magnitudes exactly 1 or -1."""
    return 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2_E)) + 1.0)


@triton.jit
def fp8_codes(x):
    """float32 within +-464 as the bits of the nearest float8 e4m3, of two the even one; uint8.

    From 2^-6 on three bits of mantissa are kept and the exponent's bias becomes 7; below, codes are multiples of 2^-9.
    """
    bits = tl.abs(x).to(tl.int32, bitcast=True)
    kept = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    small = nearest_whole(tl.abs(x) * 512.0).to(tl.int32)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (tl.where(tl.abs(x) < 0.015625, small, kept) | sign).to(tl.uint8)


@triton.jit
def fp8_halves(codes):
    """The bits of float8 e4m3, int8, as float16, each divided by 256: the exponent's bits move, its bias does not."""
    bits = (codes.to(tl.int16) << 7) & -16385
    return bits.to(tl.float16, bitcast=True)


@triton.jit
def stored_values(stored, like, FORMAT: tl.constexpr):
    """What was loaded from a cache in the type of `like`, codes without their scales; those of float8 over 256."""
    if FORMAT == FP8:
        return as_type(fp8_halves(stored), like.dtype)
    return as_type(stored, like.dtype)
