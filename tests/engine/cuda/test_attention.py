"""Triton's attention, interpreted, against attention written out by hand in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.architecture import ModelConfig
from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.tiles import Tile, TileTable
from servery.engine.kv import KVCache
from servery.engine.kv_format import FLOAT32, FP8, INT8
from servery.engine.latent_config import LatentConfig
from tests.engine.attention.world import World, shape
from tests.engine.cuda.world import rows_of

LATENT = LatentConfig(kv_rank=8, query_rank=None, key_dim=4, rope_dim=2, value_dim=4)
SMALL = TileTable(Tile(16, 32, 4, 1), Tile(16, 32, 4, 1))


class OnDevice:
    """The backend as the CPU's tests call one; `padding` rows are added to each batch."""

    def __init__(
        self, config: ModelConfig, sinks=None, padding: int = 0, longest: int | None = None, **options
    ) -> None:
        self.backend = PagedAttention(config, sinks, **options)
        self.padding, self.longest = padding, longest

    def plan(self, batch, cache: KVCache):
        return self.backend.plan(rows_of(batch, padding=self.padding, longest_context=self.longest), cache)


def backend(world: World, **options) -> OnDevice:
    sinks = list(world.sinks) if world.config.has_sinks else None
    return OnDevice(world.config, sinks, **{"tiles": SMALL, **options})


def world_of(rows, group: int, *, kv_format=FLOAT32, windows=(None,), head_dim=10, block_size=4, **changes) -> World:
    needed = sum(-(-(start + count) // block_size) for start, count in rows)
    order = list(range(needed + 2))[::-1]
    return World(shape(1, group, head_dim, windows, **changes), rows, block_size, order, kv_format)


@st.composite
def worlds(draw) -> World:
    block_size = draw(st.sampled_from([1, 4, 16]))
    single = st.tuples(st.integers(0, 50), st.just(1))
    several = st.tuples(st.integers(0, 20), st.integers(2, 12))
    rows = draw(st.lists(single | several, min_size=1, max_size=3))
    scores = {
        "attention_scale": draw(st.sampled_from([None, 0.3])),
        "attention_soft_cap": draw(st.sampled_from([None, 1.5])),
        "has_sinks": draw(st.booleans()),
        "latent": draw(st.sampled_from([None, None, LATENT])),
    }
    config = shape(draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 4, 8])), 10, draw(_WINDOWS), **scores)
    num_blocks = sum(-(-(start + count) // block_size) for start, count in rows)
    return World(config, rows, block_size, draw(st.permutations(range(num_blocks + 1))))


_WINDOWS = st.sampled_from([(None,), (1,), (5,), (17,)])


@given(worlds(), st.booleans(), st.integers(0, 2))
@settings(deadline=None, max_examples=5)
def test_any_ragged_batch_is_as_computed_by_hand(world: World, invariant: bool, padding: int) -> None:
    world.check(backend(world, invariant=invariant, padding=padding))


@pytest.mark.slow
@given(worlds(), st.booleans(), st.sampled_from([None, 4000]))
@settings(deadline=None, max_examples=30)
def test_any_ragged_batch_is_as_computed_by_hand_at_length(world: World, invariant: bool, longest: int | None) -> None:
    world.check(backend(world, invariant=invariant, longest=longest))


@pytest.mark.parametrize("group", [1, 4, 20])
@pytest.mark.parametrize("kv_format", [FLOAT32, INT8, FP8], ids=lambda each: each.name)
def test_groups_of_any_size_read_every_format(group: int, kv_format) -> None:
    """Against the values that the cache says it holds; 20 heads of a group take more lines than a tile has."""
    world = world_of([(37, 1), (2, 3)], group, kv_format=kv_format)
    world.kv = [world.cache.read(0, slots).double() for slots in world.slots]
    world.check(backend(world))


@pytest.mark.parametrize("kv_format", [INT8, FP8], ids=lambda each: each.name)
def test_latents_in_eight_bits_have_a_scale_for_each_part(kv_format) -> None:
    world = World(shape(1, 3, 10, (None,), latent=LATENT), [(20, 1), (3, 3)], 4, list(range(10)), kv_format)
    world.kv = [world.cache.read(0, slots).double() for slots in world.slots]
    world.check(backend(world))


def test_a_long_context_is_split_and_put_together() -> None:
    world = world_of([(150, 1), (3, 1)], 4, windows=(None, 90), block_size=16)
    world.check(backend(world))
    world.check(backend(world, longest=5000))


def test_rows_of_padding_give_zeros() -> None:
    """In a captured graph the batch has room for more rows than there are, each with a token of its own."""
    world = world_of([(20, 1)], 2)
    rows = rows_of(world.batch, padding=2)
    rows.query_starts, rows.num_tokens = torch.arange(4).int(), 3
    query = torch.randn(3, 20)
    for attention in (PagedAttention(world.config, tiles=SMALL), PagedAttention(world.config, invariant=True)):
        out = attention.plan(rows, world.cache).attend(0, query)
        assert out[0].any()
        assert not out[1:].any()


def test_with_invariance_a_row_never_depends_on_the_others() -> None:
    """Bit for bit: alone, among decoding rows, and beside a prompt."""
    rows = [(70, 1), (0, 9), (7, 1)]
    world = world_of(rows, 4, block_size=16)
    together = OnDevice(world.config, invariant=True, longest=4096).plan(world.batch, world.cache)
    query = world.query.float().flatten(1)
    expected, start = together.attend(0, query), 0
    for row, (_, count) in enumerate(rows):
        alone = rows_of(world.batch)
        alone.block_tables, alone.context_lens = alone.block_tables[row : row + 1], alone.context_lens[row : row + 1]
        alone.query_starts = torch.tensor([0, count]).int()
        alone.num_rows, alone.num_tokens, alone.max_query_tokens = 1, count, count
        alone.longest_context = int(alone.context_lens.max())
        part = PagedAttention(world.config, invariant=True).plan(alone, world.cache)
        assert torch.equal(part.attend(0, query[start : start + count]), expected[start : start + count])
        start += count


def test_bfloat16_is_off_by_no_more_than_it_rounds() -> None:
    world = world_of([(37, 1), (0, 9)], 4, head_dim=32)
    cache = KVCache(world.config, world.cache.num_blocks, 4, torch.bfloat16)
    for slots, kv in zip(world.slots, world.kv, strict=True):
        cache.write(0, slots, kv.bfloat16().flatten(1))
    plan = PagedAttention(world.config).plan(rows_of(world.batch), cache)
    got = plan.attend(0, world.query.bfloat16().flatten(1)).double()
    assert (got - world.expected(0)).norm() / world.expected(0).norm() < 0.01
