"""What is computed row by row between matrix products: sums of the residual stream, norms, gates, roundings."""

import triton
import triton.language as tl

from servery.engine.cuda.kernels.arithmetic import LOG2_E, as_type, bounded_tanh, fp8_codes

SILU = tl.constexpr(0)
GELU_TANH = tl.constexpr(1)
CLAMP = tl.constexpr(2)


@triton.jit
def add_and_normalize(
    normed,
    summed,
    hidden,
    part,
    weights,
    floor,
    normed_stride,
    summed_stride,
    hidden_stride,
    part_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_PART: tl.constexpr,
):
    """A row: `summed = hidden + part` as its type rounds it, `normed = summed / hypot(|summed|, floor) * weights`."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    is_there = columns < SIZE
    x = tl.load(hidden + row * hidden_stride + columns, mask=is_there, other=0.0).to(tl.float32)
    if HAS_PART:
        x += tl.load(part + row * part_stride + columns, mask=is_there, other=0.0).to(tl.float32)
        rounded = as_type(x, summed.dtype.element_ty)
        tl.store(summed + row * summed_stride + columns, rounded, mask=is_there)
        x = rounded.to(tl.float32)
    shrink = 1.0 / tl.sqrt(tl.sum(x * x, 0) + floor * floor)
    y = x * shrink * tl.load(weights + columns, mask=is_there, other=0.0)
    tl.store(normed + row * normed_stride + columns, as_type(y, normed.dtype.element_ty), mask=is_there)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
def gate(
    out,
    gate_up,
    stride,
    alpha,
    limit,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Write out [rows, SIZE] = activation(gate) * up for gate_up [rows, 2 * SIZE]: halves, or with `CLAMP` neighbours."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there = columns < SIZE
    line = gate_up + row * stride
    if ACTIVATION == CLAMP:
        g = tl.load(line + 2 * columns, mask=is_there, other=0.0).to(tl.float32)
        u = tl.load(line + 2 * columns + 1, mask=is_there, other=0.0).to(tl.float32)
        g = tl.minimum(g, limit)
        result = _sigmoid(g * alpha) * g * (tl.minimum(tl.maximum(u, -limit), limit) + 1.0)
    else:
        g = tl.load(line + columns, mask=is_there, other=0.0).to(tl.float32)
        u = tl.load(line + SIZE + columns, mask=is_there, other=0.0).to(tl.float32)
        if ACTIVATION == SILU:
            result = g * _sigmoid(g) * u
        else:
            result = 0.5 * g * (1.0 + bounded_tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u
    tl.store(out + row * SIZE + columns, as_type(result, out.dtype.element_ty), mask=is_there)


@triton.jit
def round_rows(codes, scales, x, stride, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Each row of x as float8 e4m3, with the scale by which its largest magnitude becomes 448: x is nearly codes * scales."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    is_there = columns < SIZE
    values = tl.load(x + row * stride + columns, mask=is_there, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), 0) / 448.0, 1e-30)
    tl.store(codes + row * SIZE + columns, fp8_codes(tl.div_rn(values, scale)).to(tl.int8, bitcast=True), mask=is_there)
    tl.store(scales + row, scale + tl.sum(values * 0.0, 0))
