import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.engine.batch import Batch, Extent, slots_of


def test_rows_are_laid_end_to_end():
    batch = Batch.build([([7], 5, [4, 2]), ([1, 2, 3], 2, [9, 8, 1])], block_size=4)
    assert {name: getattr(batch, name).tolist() for name in ("input_ids", "positions", "slots")} == {
        "input_ids": [7, 1, 2, 3],
        "positions": [5, 2, 3, 4],
        "slots": [2 * 4 + 1, 9 * 4 + 2, 9 * 4 + 3, 8 * 4],
    }
    assert batch.block_tables.tolist() == [[4, 2, 0], [9, 8, 1]]
    assert batch.extents == (Extent(0, 1, 5, [4, 2]), Extent(1, 3, 2, [9, 8, 1]))
    assert batch.longest_context == 6


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 40), st.data())
def test_slots_are_those_of_each_position(block_size, start, num_tokens, data):
    blocks = data.draw(st.permutations(range(-(-(start + num_tokens) // block_size))))
    extent = Extent(0, num_tokens, start, blocks)
    first = data.draw(st.integers(0, start))
    expected = [blocks[p // block_size] * block_size + p % block_size for p in range(first, start + num_tokens)]
    assert slots_of(extent, first, block_size) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a batch needs at least one row"),
        ([([1], 0, [0]), ([], 3, [1])], "row 1 has no tokens"),
        ([([1, 2], 7, [0, 1])], "row 0 reaches position 9 but its 2 blocks of 4 end before it"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        Batch.build(rows, block_size=4)
