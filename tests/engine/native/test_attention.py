"""Native attention equals attention written out by hand, for any ragged batch, and each row by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.attention.reference import ReferenceAttention, ReferencePlan
from servery.engine.batch import Batch
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8
from servery.engine.latent_config import LatentConfig
from servery.engine.native.attention import NativeAttention
from tests.engine.attention.test_kv_formats import FLOAT32_SLACK, bound
from tests.engine.attention.world import World, shape
from tests.engine.native.kernels import VARIANTS, context, require

pytestmark = pytest.mark.parametrize("variant", VARIANTS)


def native(world, variant, threads=1):
    plain = ReferenceAttention(world.config, list(world.sinks))
    return NativeAttention(context(variant, threads), world.config, list(world.sinks), plain)


@st.composite
def worlds(draw, formats=(FLOAT32,), longest=150):
    block_size = draw(st.sampled_from([1, 8, 16]))
    row = st.tuples(st.integers(0, longest), st.just(1)) | st.tuples(st.integers(0, longest), st.integers(1, 40))
    rows = draw(st.lists(row, min_size=1, max_size=5))
    num_blocks = sum(-(-(start + count) // block_size) for start, count in rows)
    order = draw(st.just(list(range(num_blocks))) | st.permutations(range(num_blocks + 2)))
    scores = {
        "attention_scale": draw(st.sampled_from([None, 0.3])),
        "attention_soft_cap": draw(st.sampled_from([None, 1.5])),
        "has_sinks": draw(st.booleans()),
    }
    sizes = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.sampled_from([16, 48, 64, 160]))
    config = shape(*sizes, draw(st.sampled_from([(None,), (1,), (20,), (70,)])), **scores)
    return World(config, rows, block_size, order, draw(st.sampled_from(formats)))


@given(world=worlds(longest=70))
@settings(deadline=None, max_examples=25)
def test_any_ragged_batch_is_as_computed_by_hand(variant, world):
    world.check(native(world, require(variant)))


@given(world=worlds((BFLOAT16, INT8), longest=40))
@settings(deadline=None, max_examples=20)
def test_fewer_bits_stay_within_the_derived_bound(variant, world):
    for layer in range(world.config.num_layers):
        error = (world.attention(layer, native(world, require(variant))) - world.expected(layer)).abs()
        allowed = bound(world, layer) + FLOAT32_SLACK
        assert (error <= allowed).all()


@given(world=worlds((FLOAT32, BFLOAT16, INT8), longest=300), data=st.data())
@settings(deadline=None, max_examples=30)
def test_a_rows_result_depends_on_nothing_but_the_row(variant, world, data):
    """Not on how many threads share the work, on who is in the step, or on how a prompt is cut."""
    threads = data.draw(st.sampled_from([2, 3, 5]))
    backend = native(world, require(variant))
    together = world.attention(0, backend)
    assert torch.equal(world.attention(0, native(world, variant, threads)), together)
    query = world.query.float().flatten(1)
    for extent in world.batch.extents:
        cut = data.draw(st.integers(1, extent.num_tokens))
        for first, count in ((0, cut), (cut, extent.num_tokens - cut)):
            if count:
                row = ([0] * count, extent.start + first, extent.block_ids)
                mine = slice(extent.query_start + first, extent.query_start + first + count)
                plan = backend.plan(Batch.build([row], world.cache.block_size), world.cache)
                assert torch.equal(plan.attend(0, query[mine]).double(), together[mine])


def test_a_long_context_is_shared_by_chunks(variant):
    world = World(shape(2, 2, 32, (None, 200)), [(1000, 1), (513, 3)], 16, list(range(200)))
    for threads in (1, 4):
        world.check(native(world, require(variant), threads))


def test_bfloat16_queries_are_rounded_once(variant):
    world = World(shape(2, 4, 64, (None,)), [(90, 1), (20, 30)], 16, list(range(40)), BFLOAT16)
    query = world.query.bfloat16().flatten(1)
    wide = torch.cat((query, query), 1)[:, : query.shape[1]]  # a stride of its own
    plan = native(world, require(variant)).plan(world.batch, world.cache)
    exact = plan.attend(0, query.float())
    assert torch.equal(plan.attend(0, wide), exact.bfloat16())


def test_scores_that_are_far_apart_are_weighed_right(variant):
    world = World(shape(1, 1, 16, (None,), attention_scale=40.0), [(200, 1), (0, 70)], 16, list(range(20)))
    world.check(native(world, require(variant)))


def test_other_layouts_are_left_to_torch(variant):
    world = World(shape(1, 2, 16, (None,)), [(3, 1)], 4, list(range(8)), FP8)
    assert isinstance(native(world, require(variant)).plan(world.batch, world.cache), ReferencePlan)
    assert NativeAttention.takes(world.config)
    assert not NativeAttention.takes(shape(1, 2, 24, (None,)))
    latent = LatentConfig(kv_rank=8, query_rank=None, key_dim=4, rope_dim=2, value_dim=4)
    assert not NativeAttention.takes(shape(1, 2, 16, (None,), latent=latent))
