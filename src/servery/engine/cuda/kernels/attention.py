"""Attention over the paged KV cache for a ragged batch, and the sum of its parts.

A program has some tokens of one row and all query heads of one key head (or a part of them): the query heads of a
group are stacked over the tokens, so that keys and values are read once for all of them. It walks over tiles of the
row's context with the running softmax of FlashAttention (arXiv 2205.14135, algorithm 1; in powers of 2). Which tokens
and keys these are is read from the device: the grid depends on shapes alone, as a CUDA graph needs.

Rows of few tokens may be split along their context (Flash-Decoding, arXiv 2311.01282): each part leaves its sum,
the largest score and the sum of weights, which `sum_parts` puts together in order.
"""

from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl

from servery.engine.cuda.kernels.arithmetic import FP8, LOG2_E, PLAIN, as_type, bounded_tanh, product, stored_values

# How many parts `sum_parts` reads at a time; a number of its own so that the order of sums never depends on a batch.
PARTS = tl.constexpr(16)


class AttentionStrides(NamedTuple):
    """From one token to the next in query and output; from slot to slot and from keys to values in codes and scales."""

    query: int
    out: int
    slot: int
    plane: int
    scale_slot: int
    scale_plane: int


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What a kernel is compiled for.

    `heads` of a key head's `group` of query heads are computed by one program, in `block_m` lines of which each token
    has `heads`. `window` is 0 for none. `few_tokens`: rows of up to so many are short. `part_tiles` tiles of `block_n`
    positions make a part, with 0 the row's share of as many parts as there are.
    """

    num_heads: int
    group: int
    heads: int
    head_dim: int
    block_d: int
    block_m: int
    block_n: int
    block_size: int
    window: int
    stored: int
    scale_width: int
    one_plane: bool
    has_cap: bool
    has_sinks: bool
    few_tokens: int
    is_short: bool
    is_split: bool
    part_tiles: int

    def mangle(self) -> str:
        """A name for this shape among compiled functions."""
        return "_".join(str(int(getattr(self, name))) for name in self.__slots__)


@triton.jit
def _row_of(query_starts, block, num_rows, TOKENS: tl.constexpr):
    """The row that block `block` of `TOKENS` tokens belongs to: row r begins at block query_starts[r] // TOKENS + r."""
    low, high = num_rows * 0, num_rows
    while high - low > 1:
        middle = (low + high) // 2
        is_before = tl.load(query_starts + middle) // TOKENS + middle <= block
        low, high = tl.where(is_before, middle, low), tl.where(is_before, high, middle)
    return low


@triton.jit
def _read(stored, scales, slots, is_read, stride, scale_stride, q, S: tl.constexpr):
    """Keys or values [N, D] at `slots` [N] as the type of `q`, and their scales [N]; 0 where they are not read.

    What is not read may be a leftover that is no number. Where a head has several scales they are applied here, and
    with them or without any, what is given in their place means nothing.
    """
    dims = tl.arange(0, S.block_d)
    is_there = is_read[:, None] & (dims < S.head_dim)[None, :]
    values = stored_values(
        tl.load(stored + slots[:, None] * stride + dims[None, :], mask=is_there, other=0), q, S.stored
    )
    unit: tl.constexpr = 256.0 if S.stored == FP8 else 1.0
    factors = slots
    if S.stored != PLAIN:
        if S.scale_width == S.head_dim:
            factors = tl.load(scales + slots * scale_stride, mask=is_read, other=0.0).to(tl.float32) * unit
        else:
            at = scales + slots[:, None] * scale_stride + (dims // S.scale_width)[None, :]
            each = tl.load(at, mask=is_there, other=0.0).to(tl.float32) * unit
            values = as_type(values.to(tl.float32) * each, q.dtype)
    return values, factors


@triton.jit
def _scores(q, k, factors, scale, cap, S: tl.constexpr):
    """Scores [M, N] in units of log2(e), for query lines [M, D] and keys [N, D]."""
    LINES: tl.constexpr = S.block_m
    POSITIONS: tl.constexpr = S.block_n
    scores = product(q, tl.trans(k), tl.zeros((LINES, POSITIONS), tl.float32)) * scale
    if S.stored != PLAIN and S.scale_width == S.head_dim:
        scores *= factors[None, :]
    if S.has_cap:
        scores = cap * bounded_tanh(scores / cap)
    return scores * LOG2_E


@triton.jit
def _walk(q, asking, is_line, cache, scales, table, first, last, begin, end, strides, scale, cap, S: tl.constexpr):
    """The running softmax over tiles [begin, end): sums [M, D], the largest score [M] and the sum of weights [M].

    `asking` [M] are the positions of the queries, of which those that are not `is_line` see nothing; positions
    [first, last) may be read.
    """
    LINES: tl.constexpr = S.block_m
    WIDTH: tl.constexpr = S.block_d
    total = tl.zeros((LINES, WIDTH), tl.float32)
    peak = tl.full((LINES,), float("-inf"), tl.float32)
    mass = tl.zeros((LINES,), tl.float32)
    for tile in range(begin, end):
        positions = tile * S.block_n + tl.arange(0, S.block_n)
        is_read = (positions >= first) & (positions < last)
        blocks = tl.load(table + positions // S.block_size, mask=is_read, other=0).to(tl.int64)
        slots = blocks * S.block_size + positions % S.block_size
        k, k_factors = _read(cache, scales, slots, is_read, strides.slot, strides.scale_slot, q, S)
        is_seen = is_line[:, None] & is_read[None, :] & (positions[None, :] <= asking[:, None])
        if S.window > 0:
            is_seen &= positions[None, :] > asking[:, None] - S.window
        scores = tl.where(is_seen, _scores(q, k, k_factors, scale, cap, S), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        # A line that has seen nothing yet has no peak; its weights are 0 all the same.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights, fading = tl.exp2(scores - level[:, None]), tl.exp2(peak - level)
        mass = mass * fading + tl.sum(weights, 1)
        v, v_factors = k, k_factors
        if not S.one_plane:
            v, v_factors = _read(
                cache + strides.plane,
                scales + strides.scale_plane,
                slots,
                is_read,
                strides.slot,
                strides.scale_slot,
                q,
                S,
            )
        if S.stored != PLAIN and S.scale_width == S.head_dim:
            weights *= v_factors[None, :]
        total = product(as_type(weights, v.dtype), v, total * fading[:, None])
        peak = higher
    return total, peak, mass


@triton.jit
def _weighed(total, peak, mass, sink, has_sink: tl.constexpr):
    """Sums over all there is to see, a sink in natural units included: [M, D]; zeros where there is nothing."""
    if has_sink:
        sink = sink * LOG2_E
        level = tl.maximum(peak, sink)
        fading = tl.exp2(peak - level)
        return total * (fading / (mass * fading + tl.exp2(sink - level)))[:, None]
    return total / tl.where(mass == 0.0, 1.0, mass)[:, None]


@triton.jit
def _place_of(query_starts, context_lens, num_rows, TOKENS: tl.constexpr, S: tl.constexpr):
    """This program's row and its first token there, where the row begins, and its numbers of tokens and positions."""
    row, at = tl.program_id(0), tl.program_id(0) * 0
    if not S.is_short:
        row = _row_of(query_starts, tl.program_id(0), num_rows, TOKENS)
        at = (tl.program_id(0) - tl.load(query_starts + row) // TOKENS - row) * TOKENS
    query_start = tl.load(query_starts + row)
    return row, at, query_start, tl.load(query_starts + row + 1) - query_start, tl.load(context_lens + row)


@triton.jit
def _leave(sums, peaks, place, total, peak, mass, is_line, S: tl.constexpr):
    """Write what `sum_parts` reads of one part, for lines whose place [M] is given."""
    dims = tl.arange(0, S.block_d)
    is_there = is_line[:, None] & (dims < S.head_dim)[None, :]
    tl.store(sums + place[:, None] * S.head_dim + dims[None, :], total, mask=is_there)
    tl.store(peaks + place * 2, peak, mask=is_line)
    tl.store(peaks + place * 2 + 1, mass, mask=is_line)


# What a batch is told by lies wherever it was packed: no reason to compile anew.
@triton.jit(
    do_not_specialize=["num_rows", "num_parts", "table_stride"],
    do_not_specialize_on_alignment=["tables", "context_lens", "query_starts"],
)
def attend_rows(
    out,
    sums,
    peaks,
    query,
    cache,
    scales,
    sinks,
    tables,
    context_lens,
    query_starts,
    num_rows,
    num_parts,
    table_stride,
    strides,
    scale,
    cap,
    S: tl.constexpr,
):
    """Attention of the short rows, or of the others.

    The grid is (rows or blocks of tokens, key heads times parts of their query heads, parts of the context). query and
    out [T, heads * head_dim]; cache [slots, planes, kv_heads, head_dim]; scales [slots, planes, those of all heads];
    where rows are split, sums [rows * few_tokens, heads, parts, head_dim] and peaks [rows * few_tokens, heads, parts, 2]
    are written for `sum_parts`. A row whose context is 0 gives zeros.
    """
    TOKENS: tl.constexpr = S.block_m // S.heads
    HEAD_PARTS: tl.constexpr = (S.group + S.heads - 1) // S.heads
    PER_HEAD: tl.constexpr = S.head_dim // S.scale_width
    row, at, query_start, count, context = _place_of(query_starts, context_lens, num_rows, TOKENS, S)
    is_other = (count > S.few_tokens) if S.is_short else (count <= S.few_tokens)
    if is_other | (at >= count):
        return
    lines, part, kv_head = tl.arange(0, S.block_m), tl.program_id(2), tl.program_id(1) // HEAD_PARTS
    token, in_group = at + lines // S.heads, (tl.program_id(1) % HEAD_PARTS) * S.heads + lines % S.heads
    is_line = (lines < TOKENS * S.heads) & (token < count) & (in_group < S.group)
    first = tl.maximum(context - count + at - S.window + 1, 0) if S.window > 0 else context * 0
    last = tl.minimum(context, context - count + at + TOKENS)
    begin, end = first // S.block_n, tl.cdiv(last, S.block_n)
    if S.is_split:
        tiles = S.part_tiles if S.part_tiles > 0 else tl.cdiv(end - begin, num_parts)
        begin += part * tiles
        end = tl.minimum(end, begin + tiles)
        if begin >= end:
            return
    dims, head = tl.arange(0, S.block_d), kv_head * S.group + in_group
    is_there = is_line[:, None] & (dims < S.head_dim)[None, :]
    line, column = (query_start + token).to(tl.int64)[:, None], head[:, None] * S.head_dim + dims[None, :]
    q = tl.load(query + line * strides.query + column, mask=is_there, other=0.0)
    table, asking = tables + row.to(tl.int64) * table_stride, context - count + token
    cache, scales = cache + kv_head * S.head_dim, scales + kv_head * PER_HEAD
    total, peak, mass = _walk(q, asking, is_line, cache, scales, table, first, last, begin, end, strides, scale, cap, S)
    if S.is_split:
        place = ((row * S.few_tokens + token).to(tl.int64) * S.num_heads + head) * num_parts + part
        _leave(sums, peaks, place, total, peak, mass, is_line, S)
    else:
        sink = tl.load(sinks + head, mask=is_line, other=0.0) if S.has_sinks else peak
        result = _weighed(total, peak, mass, sink, S.has_sinks)
        tl.store(out + line * strides.out + column, as_type(result, out.dtype.element_ty), mask=is_there)


@triton.jit(do_not_specialize=["num_parts"], do_not_specialize_on_alignment=["context_lens", "query_starts"])
def sum_parts(out, sums, peaks, sinks, context_lens, query_starts, num_parts, out_stride, S: tl.constexpr):
    """Put the parts of split rows together, in order; the grid is (rows, few_tokens, heads)."""
    row, token, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    query_start, context = tl.load(query_starts + row), tl.load(context_lens + row)
    count = tl.load(query_starts + row + 1) - query_start
    if (count > S.few_tokens) | (token >= count):
        return
    first = tl.maximum(context - count - S.window + 1, 0) if S.window > 0 else context * 0
    num_tiles = tl.cdiv(context, S.block_n) - first // S.block_n
    tiles = S.part_tiles if S.part_tiles > 0 else tl.maximum(tl.cdiv(num_tiles, num_parts), 1)
    used = tl.cdiv(num_tiles, tiles)
    dims = tl.arange(0, S.block_d)
    place = ((row * S.few_tokens + token).to(tl.int64) * S.num_heads + head) * num_parts
    WIDTH: tl.constexpr = S.block_d
    total, peak = tl.zeros((1, WIDTH), tl.float32), tl.full((1,), float("-inf"), tl.float32)
    mass = tl.zeros((1,), tl.float32)
    for start in range(0, used, PARTS):
        parts = start + tl.arange(0, PARTS)
        is_used = parts < used
        at = (place + parts) * 2
        each, weight = (
            tl.load(peaks + at, mask=is_used, other=float("-inf")),
            tl.load(peaks + at + 1, mask=is_used, other=0.0),
        )
        is_there = is_used[:, None] & (dims < S.head_dim)[None, :]
        part_sums = tl.load(sums + (place + parts)[:, None] * S.head_dim + dims[None, :], mask=is_there, other=0.0)
        higher = tl.maximum(peak, tl.max(each, 0))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        fading, shares = tl.exp2(peak - level), tl.exp2(each - level)
        total = total * fading[:, None] + tl.sum(part_sums * shares[:, None], 0)[None, :]
        mass = mass * fading + tl.sum(weight * shares, 0)
        peak = higher
    sink = tl.load(sinks + head + tl.zeros((1,), tl.int32)) if S.has_sinks else peak
    result = _weighed(total, peak, mass, sink, S.has_sinks)
    at_out = out + query_start.to(tl.int64) * out_stride + token * out_stride + head * S.head_dim + dims[None, :]
    tl.store(at_out, as_type(result, out.dtype.element_ty), mask=(dims < S.head_dim)[None, :])
