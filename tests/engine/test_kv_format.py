"""8-bit keys and values: the error of each value is bounded by its own head's scale, whatever its magnitude."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from servery.engine import kv_format
from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8, KVFormat, dequantize, quantize, resolve_kv_format
from tests.engine import checkpoints
from tests.engine.kv_error import largest_error


@st.composite
def heads(draw) -> torch.Tensor:
    """Random values [3, 2, head_dim] of any magnitude, some of them outliers, some zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(3, 2, draw(st.integers(1, 70)), generator=generator)
    values *= 10.0 ** draw(st.integers(-44, 37))
    values[draw(st.integers(0, 2)), :, 0] *= draw(st.sampled_from([0.0, 1.0, 9.0]))
    return values.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


@pytest.mark.parametrize("stored", [INT8, FP8], ids=lambda each: each.name)
@given(values=heads())
def test_a_value_read_back_is_within_its_bound(stored: KVFormat, values: torch.Tensor) -> None:
    codes, scales = quantize(values, stored)
    error = (dequantize(codes, scales, torch.float32).double() - values.double()).abs()
    assert (error <= largest_error(values.double(), scales, stored)).all()


@given(values=heads())
def test_the_largest_value_of_a_head_uses_the_whole_range(values: torch.Tensor) -> None:
    """So no accuracy is given away: half of a step is at most 1/253 of the largest value."""
    codes, _ = quantize(values, INT8)
    largest = values.float().abs().amax(-1)
    assert (codes.float().abs().amax(-1)[largest > 1e-34] == 127).all()


def test_every_float8_code_is_what_torch_takes_it_for() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    finite = codes.float().isfinite()
    for scale in (1.0, 2.0**-126, 2.0**118):
        scales = torch.full((256,), scale, dtype=torch.bfloat16)
        values = dequantize(codes.unsqueeze(1), scales, torch.float32).squeeze(1)
        assert torch.equal(values[finite], codes.float()[finite] * scale)


@pytest.mark.parametrize("stored", [INT8, FP8], ids=lambda each: each.name)
def test_bfloat16_values_are_read_back_as_in_float32_but_for_one_rounding(stored: KVFormat) -> None:
    codes, scales = quantize(torch.randn(50, 4, 64), stored)
    exact = dequantize(codes, scales, torch.float32)
    assert torch.equal(dequantize(codes, scales, torch.bfloat16), exact.to(torch.bfloat16))


@pytest.mark.parametrize("stored", [INT8, FP8], ids=lambda each: each.name)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(stored: KVFormat, poison: float) -> None:
    values = torch.ones(2, 8)
    values[0, 3] = poison
    back = dequantize(*quantize(values, stored), torch.float32)
    assert not back[0].isfinite().any()
    assert torch.equal(back[1], dequantize(*quantize(torch.ones(1, 8), stored), torch.float32)[0])


@pytest.mark.parametrize(("stored", "value_bytes", "scale_bytes"), [(FLOAT32, 4, 0), (BFLOAT16, 2, 0), (INT8, 1, 2), (FP8, 1, 2)])  # fmt: skip
def test_a_tokens_bytes_include_its_scales(stored, value_bytes, scale_bytes, tmp_path) -> None:
    config = ModelConfig.load(checkpoints.save(checkpoints.qwen3(), tmp_path))
    heads = 2 * config.num_layers * config.num_kv_heads
    assert stored.bytes_per_token(config) == heads * (config.head_dim * value_bytes + scale_bytes)


def test_a_latent_and_the_key_beside_it_share_no_scale(tmp_path) -> None:
    """The key is a thousand times larger here; with one scale most of the latent would be read back as zero."""
    config = ModelConfig.load(checkpoints.save(checkpoints.deepseek_v2(), tmp_path))
    assert config.latent is not None
    row = torch.randn(1, config.head_dim)
    row[:, config.latent.kv_rank :] *= 1000
    for stored in (INT8, FP8):
        cache = KVCache(config, 1, 16, torch.float32, kv_format=stored)
        cache.write(0, torch.tensor([3]), row)
        back = cache.read(0, slice(3, 4)).flatten(1)
        error = (back - row).abs()[:, : config.latent.kv_rank]
        assert error.max() <= row[:, : config.latent.kv_rank].abs().max() / 16
        parts = config.head_dim // kv_format.scale_width(config)
        assert stored.bytes_per_token(config) == config.num_layers * (config.head_dim + 2 * parts)
        assert sum(part.nbytes for part in (*cache.layers, *cache.scales)) == 16 * stored.bytes_per_token(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_stores_what_is_computed(dtype: torch.dtype) -> None:
    assert resolve_kv_format("auto", dtype) == {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}[dtype]


def test_formats_have_the_names_of_the_option() -> None:
    assert [resolve_kv_format(name, torch.float32) for name in ("float32", "bfloat16", "int8", "fp8")] == [
        FLOAT32, BFLOAT16, INT8, FP8,
    ]  # fmt: skip


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LoadError, match=r"kv_dtype is 'int4'; choose one of auto, float32, bfloat16, int8, fp8"):
        resolve_kv_format("int4", torch.float32)


def test_fp8_is_refused_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(torch, "tensor", refuse)
    assert not kv_format.has_float8("cpu")
    with pytest.raises(LoadError, match=r"--kv-dtype fp8: torch .* has no float8 on cpu; choose int8 instead"):
        resolve_kv_format("fp8", torch.float32)
