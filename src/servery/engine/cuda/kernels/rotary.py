"""From the projection of a step's tokens to rotated queries, and to keys and values in the cache, in one pass."""

from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl

from servery.engine.cuda.kernels.arithmetic import FP8, PLAIN, as_type, fp8_codes, nearest_whole

NO_NORM = tl.constexpr(0)
EARLY_NORM = tl.constexpr(1)
LATE_NORM = tl.constexpr(2)
# The smallest normal bfloat16, as kv_format has it.
_SMALLEST_SCALE = tl.constexpr(1.1754943508222875e-38)


class RotaryStrides(NamedTuple):
    """From one token to the next in the projection and in queries; from slot to slot, from keys to values."""

    qkv: int
    query: int
    slot: int
    plane: int
    scale_slot: int
    scale_plane: int


@dataclass(frozen=True, slots=True)
class RotaryShape:
    """What the kernel is compiled for: a program has `heads` of one token; `norm` says when heads are normalized."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_d: int
    heads: int
    stored: int
    norm: int

    def mangle(self) -> str:
        """A name for this shape among compiled functions."""
        return "_".join(str(int(getattr(self, name))) for name in self.__slots__)


@triton.jit
def _rotated(line, cosines, sines, weights, floor, head, S: tl.constexpr):
    """Heads [M, D] of the token at `line` as float32: queries and keys normalized and rotated, values as they are."""
    WIDTH: tl.constexpr = S.block_d
    dims = tl.arange(0, WIDTH)
    partner = tl.where(dims < S.head_dim // 2, dims + S.head_dim // 2, dims - S.head_dim // 2)
    is_turning = (head < S.num_heads + S.num_kv_heads)[:, None]
    is_dim = (dims < S.head_dim)[None, :]
    is_there = (head < S.num_heads + 2 * S.num_kv_heads)[:, None] & is_dim
    at = head[:, None] * S.head_dim
    x = tl.load(line + at + dims[None, :], mask=is_there, other=0.0).to(tl.float32)
    y = tl.load(line + at + partner[None, :], mask=is_there & is_turning, other=0.0).to(tl.float32)
    w = tl.full(x.shape, 1.0, tl.float32)
    if S.norm != NO_NORM:
        w = tl.load(weights + at + dims[None, :], mask=is_turning & is_dim, other=0.0)
    if S.norm == EARLY_NORM:
        w_partner = tl.load(weights + at + partner[None, :], mask=is_turning & is_dim, other=0.0)
        shrink = 1.0 / tl.sqrt(tl.sum(x * x, 1) + floor * floor)[:, None]
        x, y = tl.where(is_turning, x * shrink * w, x), y * shrink * w_partner
    cos = tl.load(cosines + dims, mask=dims < S.head_dim, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sines + dims, mask=dims < S.head_dim, other=0.0).to(tl.float32)[None, :]
    turned = x * cos + y * sin
    if S.norm == LATE_NORM:
        turned = turned * (1.0 / tl.sqrt(tl.sum(turned * turned, 1) + floor * floor)[:, None]) * w
    return tl.where(is_turning, turned, x)


@triton.jit
def _coded(values, S: tl.constexpr):
    """Codes [M, D] of the cache's format as int8, and scales [M] as bfloat16; what is not finite makes its scale so."""
    largest: tl.constexpr = 448.0 if S.stored == FP8 else 127.0
    scales = tl.maximum(tl.div_rn(tl.max(tl.abs(values), 1), largest), _SMALLEST_SCALE)
    scales = as_type(scales + tl.sum(values * 0.0, 1), tl.bfloat16)
    quotients = tl.div_rn(values, scales.to(tl.float32)[:, None])
    if S.stored == FP8:
        return fp8_codes(quotients).to(tl.int8, bitcast=True), scales
    return nearest_whole(quotients).to(tl.int8), scales


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def rotate_and_store(query, cache, scales, qkv, table, positions, slots, weights, floor, strides, S: tl.constexpr):
    """The grid is (tokens, parts of `heads` of all query, key and value heads); a token whose slot is -1 stores nothing.

    qkv [T, (heads + 2 kv_heads) * head_dim] gives query [T, heads * head_dim] and rows of cache and scales. `table`
    [positions, 2, 1, head_dim] has cosines and signed sines, `weights` float32 [heads + kv_heads, head_dim].
    """
    HEADS: tl.constexpr = S.heads
    WIDTH: tl.constexpr = S.block_d
    token = tl.program_id(0).to(tl.int64)
    head, dims = tl.program_id(1) * HEADS + tl.arange(0, HEADS), tl.arange(0, WIDTH)
    cosines = table + tl.load(positions + token) * (2 * S.head_dim)
    slot = tl.load(slots + token)
    values = _rotated(qkv + token * strides.qkv, cosines, cosines + S.head_dim, weights, floor, head, S)
    rounded = as_type(values, qkv.dtype.element_ty)
    is_dim = (dims < S.head_dim)[None, :]
    tl.store(
        query + token * strides.query + head[:, None] * S.head_dim + dims[None, :],
        rounded,
        mask=(head < S.num_heads)[:, None] & is_dim,
    )
    kv = tl.maximum(head - S.num_heads, 0)
    is_kept = (head >= S.num_heads) & (head < S.num_heads + 2 * S.num_kv_heads) & (slot >= 0)
    plane, kv_head = kv // S.num_kv_heads, kv % S.num_kv_heads
    row = cache + slot * strides.slot + plane[:, None] * strides.plane + kv_head[:, None] * S.head_dim + dims[None, :]
    if S.stored == PLAIN:
        tl.store(row, as_type(rounded, cache.dtype.element_ty), mask=is_kept[:, None] & is_dim)
    else:
        codes, factors = _coded(tl.where(is_dim, rounded.to(tl.float32), 0.0), S)
        tl.store(row, codes, mask=is_kept[:, None] & is_dim)
        at = scales + slot * strides.scale_slot + plane * strides.scale_plane + kv_head
        tl.store(at, factors, mask=is_kept)
