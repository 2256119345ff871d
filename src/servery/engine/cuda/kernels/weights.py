"""Products with weights that stay codes until they are multiplied, and codes turned into numbers.

A weight is w[n, k] = scale[n, g] * (code[n, k] - zero[n, g]) - minimum[n, g] for group g of column k, so that

    x . w[n] = sum over g of scale[n, g] * (x_g . code_g) - (scale[n, g] * zero[n, g] + minimum[n, g]) * sum(x_g):

codes are whole numbers that bfloat16 holds exactly and enter the tensor cores as they are; what belongs to a group is
applied to its sum. Scales, zeros and minima are [G, N], so that neighbouring programs read neighbouring bytes.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

from servery.engine.cuda.kernels.arithmetic import as_type, fp8_halves, product

DENSE = tl.constexpr(0)  # the values themselves, [N, K]
INT8 = tl.constexpr(1)  # int8 [N, K]
INT4 = tl.constexpr(2)  # uint8 [N, K / 2], column 2j in the low half of byte j
FP8 = tl.constexpr(3)  # the bits of float8 e4m3, int8 [N, K]
CODEBOOK = tl.constexpr(4)  # as INT4, codes name one of 16 values
# A code below 128 in the low bits of this bfloat16 is 128 more than itself.
_BFLOAT16_128 = tl.constexpr(0x4300)


@dataclass(frozen=True, slots=True)
class WeightShape:
    """What a kernel is compiled for: the layout of a weight [n, k], and tiles of `rows`, `columns` and `depth`.

    `group` columns of the weight share a scale; `zero` is the zero point where it is one number. Depth divides groups.
    """

    n: int
    k: int
    layout: int
    group: int
    zero: int
    has_zeros: bool
    has_minima: bool
    rows: int
    columns: int
    depth: int

    def mangle(self) -> str:
        """A name for this shape among compiled functions."""
        return "_".join(str(int(getattr(self, name))) for name in self.__slots__)


@triton.jit
def _codes(stored, book, is_high, TYPE: tl.constexpr, S: tl.constexpr):
    """What was loaded as numbers of `TYPE`, and by how much they are too large: whole codes, or values of a codebook."""
    if S.layout == INT4 or S.layout == CODEBOOK:
        stored = (stored >> 4) if is_high else (stored & 15)
        if S.layout == CODEBOOK:
            return as_type(tl.load(book + stored.to(tl.int32)), TYPE)
        if tl.bfloat16 == TYPE:
            return (stored.to(tl.int16) | _BFLOAT16_128).to(tl.bfloat16, bitcast=True)
        return stored.to(TYPE)
    if S.layout == FP8:
        return as_type(fp8_halves(stored), TYPE)
    return as_type(stored, TYPE)


@triton.jit
def _tile_product(x, row_stride, weight, book, m, n, at, total, num_rows, S: tl.constexpr):
    """`total` [rows, columns] and the sums of x [rows], both with columns [at, at + depth) of x and the weight added."""
    TYPE: tl.constexpr = x.dtype.element_ty
    ROWS: tl.constexpr = S.rows
    PARTS: tl.constexpr = 2 if S.layout == INT4 or S.layout == CODEBOOK else 1
    WIDTH: tl.constexpr = S.depth // PARTS
    within, columns = at // PARTS + tl.arange(0, WIDTH), at + tl.arange(0, S.depth)
    # A mask of whole tiles would hide from the compiler that neighbours are read together.
    is_given, is_stored = (m < num_rows)[:, None], (n < S.n)[:, None]
    if S.k % S.depth != 0:
        is_given, is_stored = is_given & (columns < S.k)[None, :], is_stored & (within < S.k // PARTS)[None, :]
    tile = tl.load(x + m.to(tl.int64)[:, None] * row_stride + columns[None, :], mask=is_given, other=0.0)
    stored = tl.load(weight + n.to(tl.int64)[:, None] * (S.k // PARTS) + within[None, :], mask=is_stored, other=0)
    if PARTS == 2:
        even, odd = tl.split(tl.reshape(tile, (ROWS, WIDTH, 2)))
        total = product(even, tl.trans(_codes(stored, book, False, TYPE, S)), total)
        total = product(odd, tl.trans(_codes(stored, book, True, TYPE, S)), total)
    else:
        total = product(tile, tl.trans(_codes(stored, book, False, TYPE, S)), total)
    sums = tl.zeros((ROWS,), tl.float32)
    if S.has_zeros or S.has_minima or S.layout == INT4 or S.zero != 0:
        sums = tl.sum(tile.to(tl.float32), 1)
    return total, sums


@triton.jit
def _grouped(total, sums, scales, zeros, minima, n, group, TYPE: tl.constexpr, S: tl.constexpr):
    """A group's sums of products [rows, columns] as they are with its scale, zero point and minimum."""
    is_column = n < S.n
    scale = tl.load(scales + group * S.n + n, mask=is_column, other=0.0).to(tl.float32)
    zero = tl.full(n.shape, S.zero, tl.float32)
    if S.has_zeros:
        zero = tl.load(zeros + group * S.n + n, mask=is_column, other=0).to(tl.float32)
    if S.layout == INT4 and tl.bfloat16 == TYPE:
        zero += 128.0
    offset = scale * zero
    if S.has_minima:
        offset += tl.load(minima + group * S.n + n, mask=is_column, other=0.0).to(tl.float32)
    if S.layout == FP8:
        scale *= 256.0
    return total * scale[None, :] - sums[:, None] * offset[None, :]


@triton.jit
def accumulated(x, stride, weight, book, scales, zeros, minima, m, n, first, last, num_rows, S: tl.constexpr):
    """The product [rows, columns] over columns [first, last) of x and the weight."""
    TYPE: tl.constexpr = x.dtype.element_ty
    ROWS: tl.constexpr = S.rows
    COLUMNS: tl.constexpr = S.columns
    IS_ONE_GROUP: tl.constexpr = S.group == S.k
    result, total = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    sums = tl.zeros((ROWS,), tl.float32)
    for at in range(first, last, S.depth):
        if IS_ONE_GROUP or S.layout == DENSE:
            total, more = _tile_product(x, stride, weight, book, m, n, at, total, num_rows, S)
            sums += more
        else:
            part, sums = _tile_product(x, stride, weight, book, m, n, at, total, num_rows, S)
            result += _grouped(part, sums, scales, zeros, minima, n, at // S.group, TYPE, S)
    if S.layout == DENSE:
        return total
    if IS_ONE_GROUP:
        return _grouped(total, sums, scales, zeros, minima, n, 0, TYPE, S)
    return result


@triton.jit(do_not_specialize=["num_rows"])
def multiply(
    out, x, weight, book, scales, zeros, minima, bias, num_rows, stride, unit, SPLITS: tl.constexpr, S: tl.constexpr
):
    """The product x @ w.T for x [rows, k]; the grid is (parts of n, parts of rows, `SPLITS` of k).

    out [rows, n] with the bias, which is `weight` where there is none; or [splits, rows, n] float32 for `sum_splits`.
    """
    m, n = tl.program_id(1) * S.rows + tl.arange(0, S.rows), tl.program_id(0) * S.columns + tl.arange(0, S.columns)
    DEPTH: tl.constexpr = ((S.k + SPLITS - 1) // SPLITS + S.depth - 1) // S.depth * S.depth
    first = tl.program_id(2) * DEPTH
    last = tl.minimum(first + DEPTH, S.k)
    y = accumulated(x, stride, weight, book, scales, zeros, minima, m, n, first, last, num_rows, S) * unit
    is_there = (m < num_rows)[:, None] & (n < S.n)[None, :]
    at = (tl.program_id(2) * num_rows + m).to(tl.int64)[:, None] * S.n + n[None, :]
    if SPLITS == 1 and bias is not None:
        y += tl.load(bias + n, mask=n < S.n, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, as_type(y, out.dtype.element_ty), mask=is_there)


@triton.jit(do_not_specialize=["num_rows"])
def sum_splits(out, parts, bias, num_rows, SPLITS: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    """The sum [rows, N] of parts [splits, rows, N] in order, and the bias; the grid is (rows, parts of N)."""
    row, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts + (split * num_rows + row) * N + n, mask=n < N, other=0.0)
    if bias is not None:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + row * N + n, as_type(total, out.dtype.element_ty), mask=n < N)


@triton.jit
def decode(out, weight, book, scales, zeros, minima, unit, S: tl.constexpr):
    """The values [n, k] of a weight; the grid is (parts of n, parts of k)."""
    TYPE: tl.constexpr = tl.float32
    PARTS: tl.constexpr = 2 if S.layout == INT4 or S.layout == CODEBOOK else 1
    n, at = tl.program_id(0) * S.columns + tl.arange(0, S.columns), tl.program_id(1) * S.depth
    within, is_column = tl.arange(0, S.depth // PARTS), n < S.n
    is_there = is_column[:, None] & (at + within * PARTS < S.k)[None, :]
    line = n.to(tl.int64)[:, None] * (S.k // PARTS) + (at // PARTS + within)[None, :]
    stored = tl.load(weight + line, mask=is_there, other=0)
    one = tl.full((1,), 1.0, tl.float32)
    factor = _grouped(one[None, :], one * 0.0, scales, zeros, minima, n, at // S.group, TYPE, S)
    offset = _grouped(one[None, :] * 0.0, one, scales, zeros, minima, n, at // S.group, TYPE, S)
    factor, offset = tl.trans(factor), tl.trans(offset)
    for part in tl.static_range(PARTS):
        values = (_codes(stored, book, part == 1, TYPE, S) * factor + offset) * unit
        place = n.to(tl.int64)[:, None] * S.k + (at + within * PARTS + part)[None, :]
        tl.store(out + place, as_type(values, out.dtype.element_ty), mask=is_there)
