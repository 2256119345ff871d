"""The race of tokens on a GPU, by the same random numbers as on a CPU: `sampler` and `randomness` say what is computed.

Weights are whole numbers in float32 whose sums in float64 are exact, so that no order of summing changes a choice.
"""

import triton
import triton.language as tl

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)
_SMALLEST = tl.constexpr(2.0**-60)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _constant(like, VALUE: tl.constexpr):
    """A number of 64 bits in the shape of `like`."""
    return tl.full(like.shape, VALUE, tl.uint64)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * _constant(x, _MIX_1)
    x = (x ^ (x >> 27)) * _constant(x, _MIX_2)
    return x ^ (x >> 31)


@triton.jit
def exponentials(seed, position, draws):
    """Numbers float64 of the exponential distribution for `draws` (uint64) of one seed and position (uint64 [1])."""
    golden = _constant(seed, _GOLDEN)
    state = _mix(_mix(seed + golden) + golden * (position + 1))
    mixed = _mix(state + _constant(draws, _GOLDEN) * (draws + 1))
    uniform = (mixed >> 11).to(tl.float64) * (2.0**-53)
    # 1 - u is exact, so that this is -log1p(-u).
    return _SMALLEST - tl.log(1.0 - uniform)


@triton.jit
def weights_of(logits, peak, temperature, unit):
    """floor(unit * exp((logit - peak) / temperature)): whole numbers in float32, 0 where there is no token."""
    scaled = tl.div_rn(logits - peak, tl.maximum(temperature, 1e-30))
    return tl.floor(tl.exp(scaled) * unit)


@triton.jit
def without_unlikely(weights, min_p, unit):
    """The weights of which no one is below `min_p` (float64) times the largest, which is `unit`."""
    return tl.where(weights.to(tl.float64) < min_p * unit, 0.0, weights)


@triton.jit
def seed_of(seeds, positions, row):
    """A row's seed and position, uint64 [1]."""
    at = row + tl.arange(0, 1)
    return tl.load(seeds + at).to(tl.uint64, bitcast=True), tl.load(positions + at).to(tl.uint64)


@triton.jit
def first_largest(racers, names):
    """The first largest of `racers` [M] float64 and its name; names are in ascending order."""
    best = tl.max(racers, 0)
    return best, tl.min(tl.where(racers == best, names, 2147483647), 0)


@triton.jit(do_not_specialize_on_alignment=["temperatures", "min_ps", "seeds", "positions"])
def race_chunk(
    bests,
    names,
    logits,
    peaks,
    temperatures,
    min_ps,
    seeds,
    positions,
    stride,
    unit,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The winner of a part of a row; the grid is (rows, chunks). Racers are blocks of `BLOCK` tokens, 1: tokens."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    RACERS: tl.constexpr = CHUNK // BLOCK
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    values = tl.load(logits + row.to(tl.int64) * stride + token, mask=token < V, other=float("-inf"))
    weights = weights_of(values, tl.load(peaks + row), tl.load(temperatures + row), unit)
    weights = without_unlikely(weights, tl.load(min_ps + row), unit)
    sums = tl.sum(tl.reshape(weights.to(tl.float64), (RACERS, BLOCK)), 1)
    name = chunk * RACERS + tl.arange(0, RACERS)
    seed, position = seed_of(seeds, positions, row)
    draws = 2 * name.to(tl.uint64) + (1 if BLOCK > 1 else 0)
    best, winner = first_largest(sums / exponentials(seed, position, draws), name)
    tl.store(bests + row * tl.num_programs(1) + chunk, best)
    tl.store(names + row * tl.num_programs(1) + chunk, winner)


@triton.jit(do_not_specialize_on_alignment=["temperatures", "min_ps", "seeds", "positions"])
def finish_race(
    tokens,
    bests,
    names,
    logits,
    peaks,
    largest,
    temperatures,
    min_ps,
    seeds,
    positions,
    stride,
    unit,
    num_chunks,
    V: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Tokens int64 [rows] from the winners of chunks; the first largest where a row is greedy, -1 where none is usable."""
    row = tl.program_id(0)
    chunk = tl.arange(0, CHUNKS)
    bests = tl.load(bests + row * num_chunks + chunk, mask=chunk < num_chunks, other=-1.0)
    _, name = first_largest(bests, tl.load(names + row * num_chunks + chunk, mask=chunk < num_chunks, other=2147483647))
    # Where no racer is a number none has won, and nothing behind the row may be read.
    name = tl.minimum(name, (V - 1) // BLOCK)
    peak, temperature = tl.load(peaks + row), tl.load(temperatures + row)
    token = name.to(tl.int64)
    if BLOCK > 1:
        inside = name * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(logits + row.to(tl.int64) * stride + inside, mask=inside < V, other=float("-inf"))
        weights = without_unlikely(weights_of(values, peak, temperature, unit), tl.load(min_ps + row), unit)
        seed, position = seed_of(seeds, positions, row)
        racers = weights.to(tl.float64) / exponentials(seed, position, 2 * inside.to(tl.uint64))
        _, winner = first_largest(racers, inside)
        token = winner.to(tl.int64)
    token = tl.where(temperature == 0.0, tl.load(largest + row), token)
    is_usable = tl.abs(peak) < float("inf")
    tl.store(tokens + row, tl.where(is_usable, token, -1))


@triton.jit(do_not_specialize_on_alignment=["min_ps", "seeds", "positions"])
def race_shortlist(
    tokens, weights, ids, takes_part, min_ps, seeds, positions, unit, SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    """The winner among ids [rows, SIZE] in ascending order, for rows that take part; the others keep their token."""
    row = tl.program_id(0)
    if tl.load(takes_part + row) == 0:
        return
    at = tl.arange(0, BLOCK)
    is_there = at < SIZE
    weight = tl.load(weights + row.to(tl.int64) * SIZE + at, mask=is_there, other=0.0)
    weight = without_unlikely(weight, tl.load(min_ps + row), unit)
    name = tl.load(ids + row.to(tl.int64) * SIZE + at, mask=is_there, other=2147483647)
    seed, position = seed_of(seeds, positions, row)
    racers = weight.to(tl.float64) / exponentials(seed, position, 2 * name.to(tl.uint64))
    _, winner = first_largest(tl.where(is_there, racers, -1.0), name.to(tl.int32))
    tl.store(tokens + row, winner.to(tl.int64))
