"""Paged attention against attention written out by hand in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.attention import reference
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.batch import Batch
from servery.engine.latent_config import LatentConfig
from tests.engine.attention.world import World, shape

# With it keys are values; its sizes do not matter here.
LATENT = LatentConfig(kv_rank=8, query_rank=None, key_dim=4, rope_dim=2, value_dim=4)


@st.composite
def worlds(draw) -> World:
    block_size = draw(st.sampled_from([1, 2, 8, 16]))
    single = st.tuples(st.integers(0, 40), st.just(1))
    piece = st.tuples(st.integers(0, 30), st.integers(1, 12))
    drafts = st.tuples(st.integers(0, 40), st.sampled_from([2, 4]))
    rows = draw(st.lists(single | piece, min_size=1, max_size=6) | st.lists(single | drafts, min_size=2, max_size=6))
    num_blocks = sum(-(-(start + count) // block_size) for start, count in rows)
    order = draw(st.just(list(range(num_blocks))) | st.permutations(range(num_blocks + 2)))
    windows = draw(st.sampled_from([(None,), (1,), (5,), (None, 7, None), (16, 16)]))
    scores = {
        "attention_scale": draw(st.sampled_from([None, 0.3])),
        "attention_soft_cap": draw(st.sampled_from([None, 1.5])),
        "has_sinks": draw(st.booleans()),
        "latent": draw(st.sampled_from([None, None, LATENT])),
    }
    sizes = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.sampled_from([4, 10, 32]))
    config = shape(*sizes, windows, **scores)
    return World(config, rows, block_size, order)


@given(worlds())
@settings(deadline=None, max_examples=150)
def test_any_ragged_batch_is_as_computed_by_hand(world):
    world.check()


@pytest.mark.parametrize("limit", [0, 1 << 30])
@given(world=worlds())
@settings(deadline=None, max_examples=60)
def test_any_split_into_segments_gives_the_same(limit, world):
    """Whether rows read in place or gather, alone or together, is a matter of speed only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_GATHER_BYTES", limit)
        patch.setattr(reference, "_PADDING_BYTES", limit)
        world.check()


def segments(world: World) -> list:
    return ReferenceAttention(world.config).plan(world.batch, world.cache)._segments[0]


def test_rows_of_like_length_are_one_call():
    world = World(shape(1, 2, 8, (None,)), [(30, 1), (37, 1), (25, 1)], 4, list(range(64)))
    assert [segment.num_rows for segment in segments(world)] == [3]


def test_rows_with_as_many_drafts_are_one_call():
    rows = [(30, 3), (25, 1), (37, 3), (31, 2), (5, 3)]
    world = World(shape(1, 2, 8, (None,)), rows, 4, list(range(64)))
    assert sorted((segment.num_rows, len(world.query[segment.queries])) for segment in segments(world)) == [
        (1, 1),
        (1, 2),
        (3, 9),
    ]


def test_rows_of_very_different_length_are_not_padded_to_the_longest():
    config = shape(2, 1, 64, (None,))
    rows = [(20, 1), (900, 1), (25, 1), (910, 1)]
    order = [*range(0, 400, 2), *range(1, 400, 2)]  # no runs, so that all gather
    assert [segment.queries.tolist() for segment in segments(World(config, rows, 8, order))] == [[1, 3], [0, 2]]


def test_a_long_run_of_blocks_is_read_in_place():
    world = World(shape(2, 1, 64, (None,)), [(900, 1), (20, 1)], 8, list(range(200)))
    assert segments(world)[0].slots == slice(0, 901)


def test_a_step_without_padding_has_no_mask():
    world = World(shape(1, 2, 8, (None,)), [(30, 1), (30, 1)], 4, list(range(64)))
    assert segments(world)[0].mask is None


def test_leftovers_of_other_sequences_that_are_not_numbers_do_no_harm():
    """Every slot outside the rows' own contexts is NaN in `World`: a masked NaN value would spoil the sum."""
    world = World(shape(1, 1, 4, (3,)), [(9, 1), (2, 1), (0, 3), (4, 2)], 4, [8, 1, 3, 6, 2, 7, 5])
    world.check()


@given(block_size=st.sampled_from([1, 3, 16]), window=st.sampled_from([None, 4]))
@settings(deadline=None, max_examples=10)
def test_a_prompt_in_pieces_sees_what_the_whole_prompt_sees(block_size, window):
    config = shape(2, 2, 8, (window,))
    whole = World(config, [(0, 21)], block_size, list(range(32)))
    expected = ReferenceAttention(config).plan(whole.batch, whole.cache).attend(0, whole.query.float().flatten(1))
    for cut in (1, 4, 20):
        parts = []
        for start, stop in ((0, cut), (cut, 21)):
            batch = Batch.build([([0] * (stop - start), start, whole.blocks[0])], block_size)
            plan = ReferenceAttention(config).plan(batch, whole.cache)
            parts.append(plan.attend(0, whole.query[start:stop].float().flatten(1)))
        torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-5, atol=1e-6)
