"""Torch's ways to compute attention give what ours gives, and the quickest is chosen by shape."""

import pytest
import torch

from servery.engine.cuda.attention_choice import OURS, AttentionByShape, quickest
from servery.engine.cuda.rivals import FlexAttention, VarlenAttention, is_plain
from servery.engine.cuda.step_shape import StepShape
from servery.engine.kv import KVCache
from servery.engine.kv_format import INT8
from tests.engine.attention.world import World, shape
from tests.engine.cuda.world import rows_of


def world_of(**changes) -> World:
    return World(shape(2, 3, 16, (None, 5), **changes), [(20, 1), (0, 7), (9, 3)], 4, list(range(13))[::-1])


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize("cap", [None, 1.5])
def test_flex_attention_reads_the_same_pages(cap: float | None) -> None:
    world = world_of(attention_soft_cap=cap)
    for layer in world.cache.layers:
        layer.nan_to_num_()  # it masks what it has read
    plan = FlexAttention(world.config, compiled=False).plan(rows_of(world.batch), world.cache)
    for layer in range(2):
        attended = plan.attend(layer, world.query.float().flatten(1)).double()
        torch.testing.assert_close(attended, world.expected(layer), rtol=1e-5, atol=1e-5)


def test_varlen_attention_refuses_a_soft_cap() -> None:
    with pytest.raises(ValueError, match="no soft cap"):
        VarlenAttention(world_of(attention_soft_cap=1.5).config)


def test_codes_are_ours_alone() -> None:
    world = world_of()
    assert is_plain(world.config, world.cache)
    assert not is_plain(world.config, KVCache(world.config, 4, 4, torch.float32, kv_format=INT8))


DECODE, PROMPT = StepShape(True, 4, 1024), StepShape(False, 1, 8192)


def test_another_way_is_chosen_only_where_it_is_clearly_quicker() -> None:
    seconds = {DECODE: {OURS: 1.0, "varlen": 0.97}, PROMPT: {OURS: 1.0, "varlen": 0.8, "flex": 0.9}}
    assert quickest(seconds) == {PROMPT: "varlen"}


def test_a_step_goes_to_the_backend_that_is_chosen_for_its_shape() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def plan(self, batch, cache) -> str:
            del batch, cache
            return self.name

    world = world_of()
    rows = rows_of(world.batch)
    assert StepShape.bounding(7, 3, 20) == StepShape(False, 4, 32)
    backends = {OURS: Named(OURS), "flex": Named("flex")}
    assert AttentionByShape(backends, {StepShape(False, 4, 32): "flex"}).plan(rows, world.cache) == "flex"
    assert AttentionByShape(backends, {DECODE: "flex"}).plan(rows, world.cache) == OURS
    chosen = {StepShape(False, 4, 32): "flex"}
    assert AttentionByShape(backends, chosen, lambda cache: cache is not world.cache).plan(rows, world.cache) == OURS
