"""Rotation and the way into the cache in one kernel, against the operations that it stands for."""

import pytest
import torch

from servery.engine.cuda.rotation import Rotation
from servery.engine.kv import KVCache
from servery.engine.kv_format import FLOAT32, FP8, INT8, KVFormat
from servery.engine.norm import RMSNorm
from servery.engine.rope import RopeTable, rotate
from servery.engine.rope_config import RopeConfig
from tests.engine.attention.world import shape

# Of numpy, which the interpreter computes with.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
HEADS, KV_HEADS, DIM, TOKENS = 6, 2, 12, 5
CONFIG = shape(KV_HEADS, HEADS // KV_HEADS, DIM, (None,))
POSITIONS = torch.tensor([0, 7, 3, 100, 41])
SLOTS = torch.tensor([9, 0, 4, 17, 30])


def given(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(TOKENS, (HEADS + 2 * KV_HEADS) * DIM + 3, generator=generator, dtype=torch.float32)
    qkv[2, HEADS * DIM : (HEADS + 1) * DIM] = 0.0  # a key without any size
    return qkv.to(dtype)[:, :-3], torch.randn(HEADS + KV_HEADS, DIM, generator=generator)


def step_by_step(qkv: torch.Tensor, table: RopeTable, norm: RMSNorm | None, is_late: bool):
    """In float64 from what was given, rounded once."""
    cos, sin = (each.double() for each in table.at(POSITIONS, 200))
    heads = qkv.double().view(TOKENS, -1, DIM)
    turning = heads[:, : HEADS + KV_HEADS].clone()
    if norm is not None and not is_late:
        turning = norm(turning.float()).double()
    rotate(turning, cos, sin, out=turning)
    if norm is not None and is_late:
        turning = norm(turning.float()).double()
    rows = torch.cat((turning, heads[:, HEADS + KV_HEADS :]), dim=1).flatten(1)
    return rows[:, : HEADS * DIM], rows[:, HEADS * DIM :]


@pytest.mark.parametrize("norm_order", [None, "early", "late"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_queries_keys_and_values_are_as_step_by_step(norm_order: str | None, dtype: torch.dtype) -> None:
    qkv, weight = given(dtype)
    norm, is_late = RMSNorm(weight, 1e-6) if norm_order else None, norm_order == "late"
    table = RopeTable(RopeConfig(theta=10_000.0, rotary_dim=8), DIM, 1024, torch.float32)
    cache = KVCache(CONFIG, 8, 4, dtype)
    query = Rotation(HEADS, KV_HEADS, DIM, norm, is_late=is_late)(qkv, table.table(200), POSITIONS, SLOTS, cache, 0)
    expected_query, expected_rows = step_by_step(qkv, table, norm, is_late)
    tolerance = 2e-6 if dtype is torch.float32 else 2**-8
    torch.testing.assert_close(query.double(), expected_query, rtol=tolerance, atol=tolerance)
    stored = cache.layers[0][SLOTS].flatten(1).double()
    torch.testing.assert_close(stored, expected_rows, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kv_format", [INT8, FP8], ids=lambda each: each.name)
def test_codes_and_scales_are_those_that_the_cache_would_write(kv_format: KVFormat) -> None:
    """Bit for bit, for keys whose rotation rounds nothing: at position 0."""
    qkv, _ = given(torch.bfloat16)
    table = RopeTable(RopeConfig(theta=10_000.0), DIM, 64, torch.bfloat16).table(1)
    plain, fused = (KVCache(CONFIG, 8, 4, torch.bfloat16, kv_format=kv_format) for _ in range(2))
    plain.write(0, SLOTS, qkv[:, HEADS * DIM :])
    Rotation(HEADS, KV_HEADS, DIM)(qkv, table, torch.zeros_like(POSITIONS), SLOTS, fused, 0)
    assert torch.equal(fused.scales[0], plain.scales[0])
    assert torch.equal(fused.layers[0].view(torch.int8), plain.layers[0].view(torch.int8))


def test_what_is_not_finite_makes_its_scale_so() -> None:
    qkv, _ = given(torch.float32)
    qkv[0, HEADS * DIM], qkv[1, HEADS * DIM] = float("inf"), float("nan")
    cache = KVCache(CONFIG, 8, 4, torch.float32, kv_format=INT8)
    table = RopeTable(RopeConfig(theta=10_000.0), DIM, 64, torch.float32).table(1)
    Rotation(HEADS, KV_HEADS, DIM)(qkv, table, torch.zeros_like(POSITIONS), SLOTS, cache, 0)
    finite = cache.scales[0][SLOTS].isfinite()
    assert finite.sum() == finite.numel() - 2
    assert not finite[:2, 0, 0].any()


def test_a_token_of_padding_is_not_stored() -> None:
    qkv, _ = given(torch.float32)
    cache = KVCache(CONFIG, 8, 4, torch.float32, kv_format=FLOAT32)
    table = RopeTable(RopeConfig(theta=10_000.0), DIM, 64, torch.float32).table(1)
    Rotation(HEADS, KV_HEADS, DIM)(qkv, table, torch.zeros_like(POSITIONS), torch.tensor([-1, 3, -1, -1, -1]), cache, 0)
    assert cache.layers[0].flatten(1).any(1).nonzero().flatten().tolist() == [3]
