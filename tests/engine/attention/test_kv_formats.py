"""Attention over keys and values in fewer bits: its error against exact attention in float64 has a derived bound.

Let score j be off by at most e_j = scale * sum_d |q_d| * (error of key j, d) and e = max_j e_j (a soft cap is
1-Lipschitz and changes nothing). The Jacobian of softmax maps a change of the scores within +-e to a change of the
weights of 1-norm at most e, the mean absolute deviation of something within +-e; integrated along the way from the
exact scores to the stored ones, the weights are off by at most e in 1-norm. So an output is off by at most

    e * max_j |v_j|  +  max_j (error of value j).
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.attention import reference
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8, KVFormat
from tests.engine.attention.world import World, by_hand, shape
from tests.engine.kv_error import largest_error

FLOAT32_SLACK = 2e-5


def bound(world: World, layer: int) -> torch.Tensor:
    """[tokens, heads * head_dim]: how far attention may be from exact attention over the exact keys and values."""
    parts = world.query.split([count for _, count in world.rows])
    rows = zip(parts, world.kv, world.slots, world.rows, strict=True)
    return torch.cat([_row_bound(world, layer, *row) for row in rows])


def _row_bound(world: World, layer: int, query, kv, slots, row) -> torch.Tensor:
    config, cache = world.config, world.cache
    scales = cache.scales[layer][slots] if cache.scales else torch.empty(0)
    error = largest_error(kv, scales, cache.format)
    scale, window, start = config.attention_scale or config.head_dim**-0.5, config.windows[layer], row[0]
    group = config.num_heads // config.num_kv_heads
    result = torch.zeros_like(query)
    for i in range(len(query)):
        position = start + i
        seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
        for head in range(config.num_heads):
            kv_head = head // group
            score_error = (error[seen, 0, kv_head] @ query[i, head].abs()).max() * scale
            result[i, head] = score_error * kv[seen, 1, kv_head].abs().amax(0) + error[seen, 1, kv_head].amax(0)
    return result.flatten(1)


@st.composite
def worlds(draw, formats: tuple[KVFormat, ...]) -> World:
    rows = draw(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 1, 5])), min_size=1, max_size=4))
    num_blocks = sum(-(-(start + count) // 4) for start, count in rows)
    order = draw(st.just(list(range(num_blocks))) | st.permutations(range(num_blocks + 2)))
    scores = {"attention_soft_cap": draw(st.sampled_from([None, 1.5]))}
    sizes = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.sampled_from([4, 10, 32]))
    config = shape(*sizes, draw(st.sampled_from([(None,), (5,), (None, 7)])), **scores)
    return World(config, rows, 4, order, draw(st.sampled_from(formats)))


@given(worlds((BFLOAT16, INT8, FP8)))
@settings(deadline=None, max_examples=80)
def test_the_output_is_within_the_derived_bound(world: World) -> None:
    for layer in range(world.config.num_layers):
        error = (world.attention(layer) - world.expected(layer)).abs()
        assert (error <= bound(world, layer) + FLOAT32_SLACK).all()


@pytest.mark.parametrize(
    ("stored", "limit"), [(FLOAT32, 1e-6), (INT8, 0.02), (FP8, 0.1)], ids=["float32", "int8", "fp8"]
)
def test_the_error_is_as_small_as_the_format_promises(stored: KVFormat, limit: float) -> None:
    """Normal keys and values, a context of 200: as a share of the output's own size."""
    world = World(shape(2, 2, 64, (None,)), [(199, 1), (150, 1)], 16, list(range(40)), stored)
    error = (world.attention(0) - world.expected(0)).norm() / world.expected(0).norm()
    assert error < limit


@pytest.mark.parametrize("limit", [0, 1 << 30])
@given(world=worlds((INT8, FP8)))
@settings(deadline=None, max_examples=40)
def test_in_place_or_gathered_it_reads_the_same_values(limit: int, world: World) -> None:
    """However a step is split into calls, it is attention over the values that the cache says it holds."""
    world.kv = [world.cache.read(0, slots).double() for slots in world.slots]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_GATHER_BYTES", limit)
        patch.setattr(reference, "_PADDING_BYTES", limit)
        world.check()


def test_windows_see_no_leftovers_behind_them() -> None:
    """Slots outside of the rows' own contexts have scales that are not numbers: one of them would spoil the sum."""
    world = World(shape(1, 1, 4, (3,)), [(9, 1), (2, 1), (0, 3), (4, 2)], 4, [8, 1, 3, 6, 2, 7, 5], INT8)
    assert world.attention(0).isfinite().all()
    part = by_hand(world.config, world.query[:1], *_read(world, 0), start=9, window=3)
    torch.testing.assert_close(world.attention(0)[:1], part, rtol=1e-5, atol=1e-5)


def _read(world: World, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = world.cache.read(0, world.slots[row]).double().unbind(1)
    return keys, values
