"""How the attention kernels cut their work, for each kind of rows: a table to begin with, and the choice by measurement.

No torch, no GPU: what is timed is passed in.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# Shared memory that one program may have on sm_80, sm_90 and later, the smallest of them.
SHARED_BYTES = 160 << 10
# A line of the running sum is held in registers, of which 128 threads have 256 KiB.
_REGISTER_BYTES = 128 << 10
# Scores of a tile in float32, above which operands no longer fit in registers.
_EXACT_SCORES = 512
LEAST_LINES = 16  # that a tensor core multiplies


@dataclass(frozen=True, slots=True)
class Tile:
    """`lines` of queries against `positions` of keys at a time, by so many warps, loading `stages` tiles ahead."""

    lines: int
    positions: int
    warps: int
    stages: int

    def fits(self, head_dim: int, value_bytes: int) -> bool:
        """Whether shared memory and registers have room for it; float32 is multiplied in registers alone."""
        width = padded(head_dim)
        loaded = 2 * self.positions * width * value_bytes * max(1, self.stages - 2) + self.lines * width * value_bytes
        is_light = value_bytes < 4 or self.lines * self.positions <= _EXACT_SCORES
        return is_light and loaded <= SHARED_BYTES and self.lines * width * 4 <= _REGISTER_BYTES * self.warps // 4


@dataclass(frozen=True, slots=True)
class TileTable:
    """The tiles for rows of few tokens, and for rows of many."""

    few: Tile
    many: Tile


FEW = tuple(
    Tile(LEAST_LINES, positions, warps, stages)
    for positions, warps, stages in (
        (64, 4, 4),
        (64, 4, 3),
        (64, 4, 5),
        (128, 8, 4),
        (128, 4, 3),
        (32, 4, 5),
        (32, 2, 4),
        (32, 4, 2),
        (16, 4, 3),
        (16, 4, 1),
    )
)
MANY = tuple(
    Tile(lines, positions, warps, stages)
    for lines, positions, warps, stages in (
        (128, 64, 8, 3),
        (128, 128, 8, 2),
        (128, 32, 8, 3),
        (64, 64, 4, 3),
        (64, 32, 4, 2),
        (32, 32, 4, 2),
        (16, 32, 4, 2),
        (16, 16, 4, 1),
    )
)


def default_tiles(head_dim: int, value_bytes: int) -> TileTable:
    """The first that fits of each kind: what does well on H100 by what others published, before anything is measured."""
    return TileTable(*(next(iter(fitting(each, head_dim, value_bytes)), each[-1]) for each in (FEW, MANY)))


def fitting(tiles: Iterable[Tile], head_dim: int, value_bytes: int) -> list[Tile]:
    """Those that a device has room for."""
    return [tile for tile in tiles if tile.fits(head_dim, value_bytes)]


def measured_tiles(
    head_dim: int, value_bytes: int, few_s: Callable[[Tile], float], many_s: Callable[[Tile], float]
) -> TileTable:
    """The quickest of each kind, where `few_s` and `many_s` tell how long a tile takes; infinity if it cannot run."""
    few, many = (
        min(fitting(each, head_dim, value_bytes) or each[-1:], key=seconds)
        for each, seconds in ((FEW, few_s), (MANY, many_s))
    )
    return TileTable(few, many)


def padded(size: int) -> int:
    """The power of 2 that a dimension takes in a tile: at least what a tensor core multiplies."""
    return max(LEAST_LINES, 1 << (size - 1).bit_length())


def num_parts(programs: int, longest_context: int, positions: int, wanted_programs: int) -> int:
    """How many parts contexts are cut into so that about `wanted_programs` run, where without it were `programs`.

    No part is smaller than a tile of `positions`; a cut of a long context into more than 64 parts gains nothing.
    """
    most = min(64, math.ceil(longest_context / positions))
    return max(1, min(most, math.ceil(wanted_programs / programs)))


def part_positions(max_position: int) -> int:
    """The positions of a part where parts must not depend on a batch: at most 64 parts of the longest context."""
    return max(512, 1 << (math.ceil(max_position / 64) - 1).bit_length())
