"""Paged attention against attention written out by hand in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.architecture import ModelConfig
from servery.engine.attention import reference
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.batch import Batch
from servery.engine.kv import KVCache
from servery.engine.rope_config import RopeConfig


def shape(num_kv_heads: int, group: int, head_dim: int, windows: tuple[int | None, ...], **changes) -> ModelConfig:
    return ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_layers=len(windows),
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=1024,
        norm_eps=1e-6,
        ropes=(RopeConfig(theta=10_000.0),) * len(windows),
        windows=windows,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tie_embeddings=True,
        eos_token_ids=frozenset(),
        dtype=None,
        **changes,
    )


def by_hand(config: ModelConfig, query, keys, values, start: int, window: int | None) -> torch.Tensor:
    """One row in float64: query [count, heads, dim], keys and values [context, kv_heads, dim]."""
    scale, cap = config.attention_scale or config.head_dim**-0.5, config.attention_soft_cap
    count, num_heads, head_dim = query.shape
    group = num_heads // keys.shape[1]
    out = torch.zeros(count, num_heads, head_dim, dtype=torch.float64)
    for i in range(count):
        position = start + i
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(num_heads):
            seen = slice(first, position + 1)
            scores = keys[seen, head // group] @ query[i, head] * scale
            scores = scores if cap is None else cap * torch.tanh(scores / cap)
            out[i, head] = scores.softmax(0) @ values[seen, head // group]
    return out.flatten(1)


class World:
    """Sequences with random keys and values in a cache whose every other slot is not a number."""

    def __init__(self, config: ModelConfig, rows: list[tuple[int, int]], block_size: int, order: list[int]) -> None:
        self.config, self.rows = config, rows
        generator = torch.Generator().manual_seed(len(rows))
        lengths = [start + count for start, count in rows]
        needed = [-(-length // block_size) for length in lengths]
        self.cache = KVCache(config, max(order) + 1, block_size, torch.float32)
        for layer in self.cache.layers:
            layer.fill_(float("nan"))
        given_out = iter(order)
        self.blocks = [[next(given_out) for _ in range(count)] for count in needed]
        self.batch = Batch.build(
            [([0] * count, start, blocks) for (start, count), blocks in zip(rows, self.blocks, strict=True)], block_size
        )
        kv_shape = (2, config.num_kv_heads, config.head_dim)
        self.kv = [torch.randn(length, *kv_shape, generator=generator, dtype=torch.float64) for length in lengths]
        tokens = sum(count for _, count in rows)
        self.query = torch.randn(tokens, config.num_heads, config.head_dim, generator=generator, dtype=torch.float64)
        for blocks, kv in zip(self.blocks, self.kv, strict=True):
            slots = torch.tensor([blocks[p // block_size] * block_size + p % block_size for p in range(len(kv))])
            for layer in range(config.num_layers):
                self.cache.write(layer, slots, kv.float().flatten(1))

    def expected(self, layer: int) -> torch.Tensor:
        parts = self.query.split([count for _, count in self.rows])
        return torch.cat(
            [
                by_hand(self.config, part, kv[:, 0], kv[:, 1], start, self.config.windows[layer])
                for part, kv, (start, _) in zip(parts, self.kv, self.rows, strict=True)
            ]
        )

    def check(self) -> None:
        plan = ReferenceAttention(self.config).plan(self.batch, self.cache)
        for layer in range(self.config.num_layers):
            result = plan.attend(layer, self.query.float().flatten(1))
            torch.testing.assert_close(result.double(), self.expected(layer), rtol=1e-5, atol=1e-5)


@st.composite
def worlds(draw) -> World:
    block_size = draw(st.sampled_from([1, 2, 8, 16]))
    single = st.tuples(st.integers(0, 40), st.just(1))
    piece = st.tuples(st.integers(0, 30), st.integers(1, 12))
    rows = draw(st.lists(single | piece, min_size=1, max_size=6))
    num_blocks = sum(-(-(start + count) // block_size) for start, count in rows)
    order = draw(st.just(list(range(num_blocks))) | st.permutations(range(num_blocks + 2)))
    windows = draw(st.sampled_from([(None,), (1,), (5,), (None, 7, None), (16, 16)]))
    scores = {
        "attention_scale": draw(st.sampled_from([None, 0.3])),
        "attention_soft_cap": draw(st.sampled_from([None, 1.5])),
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
