"""How attention is cut, decided without a GPU."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.engine.cuda.tiles import (
    FEW,
    MANY,
    SHARED_BYTES,
    Tile,
    TileTable,
    default_tiles,
    measured_tiles,
    num_parts,
    padded,
    part_positions,
)


@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128, 192, 256, 576])
def test_every_head_has_tiles_that_fit(head_dim: int, value_bytes: int) -> None:
    table = default_tiles(head_dim, value_bytes)
    assert table.few in FEW
    assert table.many in MANY
    assert table.few.lines == 16
    if value_bytes == 2:
        assert table.few.fits(head_dim, value_bytes)
        assert 2 * table.few.positions * padded(head_dim) * value_bytes <= SHARED_BYTES


def test_float32_takes_tiles_whose_operands_stay_in_registers() -> None:
    table = default_tiles(128, 4)
    assert table.few.lines * table.few.positions <= 512
    assert table.many.lines * table.many.positions <= 512


def test_the_quickest_tile_is_chosen_and_one_that_cannot_run_never() -> None:
    slow = {FEW[0]: math.inf, FEW[3]: 1.0, MANY[2]: 0.5}
    table = measured_tiles(128, 2, lambda tile: slow.get(tile, 2.0), lambda tile: slow.get(tile, 2.0))
    assert table == TileTable(FEW[3], MANY[2])


def test_only_tiles_with_room_are_timed() -> None:
    timed: list[Tile] = []

    def seconds(tile: Tile) -> float:
        timed.append(tile)
        return 1.0

    measured_tiles(256, 2, seconds, seconds)
    assert timed
    assert all(tile.fits(256, 2) for tile in timed)


@given(st.integers(1, 5000), st.integers(1, 1 << 20), st.sampled_from([16, 64, 128]), st.integers(1, 600))
def test_parts_fill_the_device_and_are_no_smaller_than_a_tile(programs, longest, positions, wanted) -> None:
    parts = num_parts(programs, longest, positions, wanted)
    assert 1 <= parts <= 64
    assert (parts - 1) * positions < longest
    assert parts == 1 or (parts - 1) * programs < wanted


@given(st.integers(1, 1 << 24))
def test_parts_that_no_batch_changes_are_at_most_64(max_position: int) -> None:
    assert math.ceil(max_position / part_positions(max_position)) <= 64
