"""For which sizes steps are captured: every size has one, and padding stays bounded."""

from hypothesis import given
from hypothesis import strategies as st

from servery.engine.graph_buckets import bucket_of, buckets, context_bucket


@given(st.integers(1, 1000))
def test_every_number_of_rows_has_a_bucket_that_is_not_much_larger(max_rows: int) -> None:
    sizes = buckets(max_rows)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == max_rows
    for rows in range(1, max_rows + 1):
        size = bucket_of(rows, sizes)
        assert size is not None
        assert rows <= size < max(2 * rows, rows + 8 if rows < 64 else rows + 32) + 1
    assert bucket_of(max_rows + 1, sizes) is None


def test_there_are_few_graphs_for_many_rows() -> None:
    assert buckets(1) == (1,)
    assert buckets(6) == (1, 2, 4, 6)
    assert buckets(256) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 160, 192, 224, 256)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_context_is_captured_for_at_most_four_times_its_length(longest: int, most: int) -> None:
    longest = min(longest, most)
    bucket = context_bucket(longest, most)
    assert longest <= bucket <= most
    assert bucket <= max(2048, 4 * longest)
