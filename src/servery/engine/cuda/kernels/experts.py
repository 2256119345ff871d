"""Mixtures of experts without a look at the device: choices in the order of their experts, their products, their sum."""

import triton
import triton.language as tl

from servery.engine.cuda.kernels.arithmetic import as_type
from servery.engine.cuda.kernels.weights import CODEBOOK, INT4, accumulated


@triton.jit(do_not_specialize=["num_choices"])
def sort_choices(order, places, starts, chosen, num_choices, num_experts, BLOCK: tl.constexpr):
    """Choices in the order of their experts, those of one as they came; the grid is one program for each expert.

    chosen [choices] int64 says who; order [choices] int32 has the choice at each place, places its inverse, starts
    [experts + 1] where each expert's begin, and the end.
    """
    expert = tl.program_id(0)
    before, own = expert * 0, expert * 0
    for at in range(0, num_choices, BLOCK):
        choice = at + tl.arange(0, BLOCK)
        who = tl.load(chosen + choice, mask=choice < num_choices, other=num_experts)
        before += tl.sum((who < expert).to(tl.int32), 0)
        own += tl.sum((who == expert).to(tl.int32), 0)
    tl.store(starts + expert, before)
    if expert == num_experts - 1:
        tl.store(starts + num_experts, before + own)
    place = before
    for at in range(0, num_choices, BLOCK):
        choice = at + tl.arange(0, BLOCK)
        is_own = tl.load(chosen + choice, mask=choice < num_choices, other=num_experts) == expert
        mine = is_own.to(tl.int32)
        to = place + tl.cumsum(mine, 0) - 1
        tl.store(order + to, choice, mask=is_own)
        tl.store(places + choice, to, mask=is_own)
        place += tl.sum(mine, 0)


@triton.jit
def _expert_of(starts, block, num_experts, ROWS: tl.constexpr):
    """The expert that block `block` of `ROWS` choices belongs to: expert e begins at block starts[e] // ROWS + e."""
    low, high = num_experts * 0, num_experts
    while high - low > 1:
        middle = (low + high) // 2
        is_before = tl.load(starts + middle) // ROWS + middle <= block
        low, high = tl.where(is_before, middle, low), tl.where(is_before, high, middle)
    return low


@triton.jit(do_not_specialize=["num_rows"])
def multiply_chosen(
    out,
    x,
    weight,
    book,
    scales,
    zeros,
    minima,
    bias,
    order,
    starts,
    num_rows,
    num_experts,
    stride,
    unit,
    PER_ROW: tl.constexpr,
    GROUPS: tl.constexpr,
    S: tl.constexpr,
):
    """Each choice's row of x by its expert's weight; the grid is (parts of n, blocks of choices).

    weight [experts, n, k] in a layout of `weights`, scales, zeros and minima [experts, groups, n], bias [experts, n].
    A row of x [num_rows, k] is chosen `PER_ROW` times; out [choices, n] is in the order of experts.
    """
    ROWS: tl.constexpr = S.rows
    PARTS: tl.constexpr = 2 if S.layout == INT4 or S.layout == CODEBOOK else 1
    expert = _expert_of(starts, tl.program_id(1), num_experts + tl.program_id(0) * 0, ROWS)
    start, end = tl.load(starts + expert), tl.load(starts + expert + 1)
    first = start + (tl.program_id(1) - start // ROWS - expert) * ROWS
    if first >= end:
        return
    place, n = first + tl.arange(0, ROWS), tl.program_id(0) * S.columns + tl.arange(0, S.columns)
    # What is behind the last choice of an expert is behind all rows of x.
    row = tl.load(order + place, mask=place < end, other=num_rows * PER_ROW) // PER_ROW
    which = expert.to(tl.int64)
    weight += which * S.n * (S.k // PARTS)
    scales, zeros, minima = scales + which * GROUPS * S.n, zeros + which * GROUPS * S.n, minima + which * GROUPS * S.n
    y = accumulated(x, stride, weight, book, scales, zeros, minima, row, n, 0, S.k, num_rows, S) * unit
    if bias is not None:
        y += tl.load(bias + which * S.n + n, mask=n < S.n, other=0.0).to(tl.float32)[None, :]
    at = place.to(tl.int64)[:, None] * S.n + n[None, :]
    tl.store(out + at, as_type(y, out.dtype.element_ty), mask=(place < end)[:, None] & (n < S.n)[None, :])


@triton.jit
def sum_chosen(out, parts, places, weights, SIZE: tl.constexpr, PER_ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Write out [rows, SIZE]: of each row's choices, in their order, parts [choices, SIZE] by weights [rows, PER_ROW]."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for choice in range(PER_ROW):
        place = tl.load(places + row * PER_ROW + choice).to(tl.int64)
        weight = tl.load(weights + row * PER_ROW + choice).to(tl.float32)
        total += weight * tl.load(parts + place * SIZE + columns, mask=columns < SIZE, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + columns, as_type(total, out.dtype.element_ty), mask=columns < SIZE)
