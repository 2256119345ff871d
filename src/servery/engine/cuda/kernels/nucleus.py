"""top_k and top_p for rows whose nucleus is too large for a shortlist: borders found by halving, without sorting.

A float32 is as large as its bits, seen as a signed number, say; so a border is found in 32 halvings of that number.
"""

import triton
import triton.language as tl

from servery.engine.cuda.kernels.sampling import exponentials, first_largest, seed_of, weights_of, without_unlikely


@triton.jit
def _key(values):
    """int32 in the order of float32 values; both zeros are equal."""
    bits = (values + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _above(line, key, peak, temperature, unit, least, V: tl.constexpr, BLOCK: tl.constexpr):
    """How many values have a key above `key`, and the mass of those that have at least the key `least` too."""
    count, mass = tl.zeros((1,), tl.int32), tl.zeros((1,), tl.float64)
    for at in range(0, V, BLOCK):
        token = at + tl.arange(0, BLOCK)
        values = tl.load(line + token, mask=token < V, other=float("-inf"))
        keys = _key(values)
        is_above = (token < V) & (keys > key)
        count += tl.sum(is_above.to(tl.int32), 0)
        weights = weights_of(values, peak, temperature, unit)
        mass += tl.sum(tl.where(is_above & (keys >= least), weights, 0.0).to(tl.float64), 0)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _border(line, top_k, most, peak, temperature, unit, least, V: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest key with fewer than `top_k` values above it, and less mass than `most`."""
    low, high = tl.full((), -2147483648, tl.int64), tl.full((), 2147483647, tl.int64)
    while low < high:
        middle = (low + high) >> 1
        count, mass = _above(line, middle.to(tl.int32), peak, temperature, unit, least, V, BLOCK)
        is_enough = (count < top_k) & (mass < most)
        low, high = tl.where(is_enough, low, middle + 1), tl.where(is_enough, middle, high)
    return low.to(tl.int32)


@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "min_ps", "seeds", "positions"])
def race_nucleus(
    tokens,
    logits,
    peaks,
    takes_part,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    positions,
    stride,
    unit,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The winner of a race of all tokens that top_k, top_p and min_p leave, for rows that take part; one program each."""
    row = tl.program_id(0)
    if tl.load(takes_part + row) == 0:
        return
    line, peak, temperature = logits + row.to(tl.int64) * stride, tl.load(peaks + row), tl.load(temperatures + row)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    lowest, endless = tl.full((), -2147483648, tl.int32), tl.full((), float("inf"), tl.float64)
    least = lowest
    if (top_k > 0) & (top_k < V):
        least = _border(line, top_k, endless, peak, temperature, unit, lowest, V, BLOCK)
    _, mass = _above(line, lowest, peak, temperature, unit, least, V, BLOCK)
    cutoff = _border(line, V + 1, top_p * mass, peak, temperature, unit, least, V, BLOCK)
    _, before = _above(line, cutoff, peak, temperature, unit, least, V, BLOCK)
    seed, position = seed_of(seeds, positions, row)
    best, winner, equals = tl.full((), -1.0, tl.float64), tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    for at in range(0, V, BLOCK):
        token = at + tl.arange(0, BLOCK)
        values = tl.load(line + token, mask=token < V, other=float("-inf"))
        keys, weights = _key(values), weights_of(values, peak, temperature, unit)
        is_equal = (keys == cutoff) & (token < V)
        # Of equal ones, those with the lowest ids until the mass is reached.
        rank = equals + tl.cumsum(is_equal.to(tl.int32), 0) - 1
        is_kept = is_equal & (before + rank.to(tl.float64) * weights.to(tl.float64) < top_p * mass)
        is_kept = (is_kept | ((keys > cutoff) & (token < V))) & (keys >= least)
        kept = without_unlikely(tl.where(is_kept, weights, 0.0), tl.load(min_ps + row), unit)
        racers = kept.to(tl.float64) / exponentials(seed, position, 2 * token.to(tl.uint64))
        value, name = first_largest(racers, token)
        winner, best = tl.where(value > best, name, winner), tl.maximum(value, best)
        equals += tl.sum(is_equal.to(tl.int32), 0)
    tl.store(tokens + row, winner.to(tl.int64))
