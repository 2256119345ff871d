"""Random numbers that depend on nothing but (seed, position, draw).

A counter-based generator: no state to carry, so a request's tokens do not depend on who shares its batch, on preemption
or on how often a step is repeated. The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014) with Stafford's constants (variant 13).
"""

import enum
import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the increment of SplitMix64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SMALLEST = 2.0**-60  # so that nothing divides by 0


class Use(enum.IntEnum):
    """What a random number decides besides the target's own draw; the numbers of different uses are independent."""

    DRAFT = 1  # which token a draft model proposes
    ACCEPT = 2  # whether a proposal is accepted
    RESIDUAL = 3  # which token replaces one that is not


def seed_for(seed: int, use: Use) -> int:
    """The seed to take at every position instead of `seed` for a use of its own."""
    key = struct.pack("<QB", seed & _MASK, use)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"draws").digest(), "little")


def uniforms(seeds: Sequence[int], positions: Sequence[int], draw: int = 0) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, position), a multiple of 2^-53.

    `draw` separates several numbers needed at one position. Seeds are any integers, taken modulo 2^64.
    """
    return _table(seeds, positions, np.array([draw]))[:, 0]


def exponentials(seeds: Sequence[int], positions: Sequence[int], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers of the exponential distribution with mean 1, all above 0: [S, M] for S pairs and `draws` [M] or [S, M]."""
    return -np.log1p(-_table(seeds, positions, draws)) + _SMALLEST


def _table(seeds: Sequence[int], positions: Sequence[int], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Uniform numbers [S, M] for `draws` [M] or [S, M]."""
    state = _mix(np.array([seed & _MASK for seed in seeds], dtype=np.uint64) + _GOLDEN)
    state = _mix(state + _GOLDEN * (np.array(positions, dtype=np.uint64) + np.uint64(1)))
    table = _mix(state[:, None] + _GOLDEN * (draws.astype(np.uint64) + np.uint64(1)))
    return (table >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64 bits in which every input bit flips every output bit with probability one half."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))
