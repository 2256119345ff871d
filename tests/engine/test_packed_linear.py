import pytest
import torch

from servery.engine import packed_linear
from servery.engine.linear import QuantizedLinear, linear_of
from servery.engine.packed_linear import INT4_MANY_ROWS, INT8_MANY_ROWS, Int4Linear, Int8Linear
from servery.engine.quantization.matrix import GroupMatrix, pack_halves

ROWS, COLUMNS = 192, 256


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(11)


def _int8(**changes):
    scales = torch.rand(ROWS, 1) / 100
    return GroupMatrix(torch.randint(-127, 128, (ROWS, COLUMNS)).to(torch.int8), scales, **changes)


def _int4(size=64, **changes):
    scales = ((torch.rand(ROWS, COLUMNS // size) + 0.5) / 10).half()
    return GroupMatrix(pack_halves(torch.randint(0, 16, (ROWS, COLUMNS))), scales, bits=4, **changes)


def _whole_numbers(size):
    return torch.randint(0, 16, (ROWS, COLUMNS // size)).to(torch.uint8)


def _error(layer, matrix, rows, dtype, bias=None):
    """The relative error of the product against float64."""
    x = torch.randn(rows, COLUMNS).to(dtype)
    exact = x.double() @ matrix.dequantize(torch.float64).t()
    exact = exact if bias is None else exact + bias.double()
    residual = torch.randn(rows, ROWS).to(dtype)
    added = layer.add_to(residual, x).double() - residual.double()
    assert layer(x).dtype == dtype
    return max(float((found - exact).norm() / exact.norm()) for found in (layer(x).double(), added))


@pytest.mark.parametrize("rows", [1, INT8_MANY_ROWS - 1, INT8_MANY_ROWS, 70])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_8_bits_multiply_by_their_values(dtype, allowed, rows, monkeypatch):
    monkeypatch.setattr(packed_linear, "_TILE_VALUES", 50 * COLUMNS)
    matrix, bias = _int8(unit=0.5), torch.randn(ROWS).to(dtype)
    layer = linear_of([matrix], bias, dtype=dtype)
    assert isinstance(layer, Int8Linear)
    assert _error(layer, matrix, rows, dtype, bias) < allowed
    assert layer.shape == matrix.shape
    assert layer.nbytes == ROWS * COLUMNS + 2 * ROWS * dtype.itemsize


@pytest.mark.parametrize("rows", [1, 5, INT4_MANY_ROWS - 1, INT4_MANY_ROWS, 130])
@pytest.mark.parametrize(
    "make",
    [
        lambda: _int4(32, zeros=8),
        lambda: _int4(64, zeros=_whole_numbers(64)),
        lambda: _int4(128, zeros=_whole_numbers(128), unit=2.0),
        lambda: _int4(32, minima=torch.rand(ROWS, COLUMNS // 32), arithmetic=torch.float32),
        lambda: _int4(256),
    ],
    ids=["symmetric", "zeros", "unit", "minima", "unsigned"],
)
def test_4_bits_multiply_by_their_values(make, rows, monkeypatch):
    monkeypatch.setattr(packed_linear, "_TILE_VALUES", 2 * 64 * COLUMNS)
    matrix, bias = make(), torch.randn(ROWS).bfloat16()
    layer = linear_of([matrix], bias, dtype=torch.bfloat16)
    assert isinstance(layer, Int4Linear)
    assert _error(layer, matrix, rows, torch.bfloat16, bias) < 0.02
    assert layer.shape == matrix.shape
    assert layer.nbytes == ROWS * COLUMNS // 2 + 4 * ROWS * matrix.num_groups + 2 * ROWS


@pytest.mark.parametrize(
    "make",
    [
        lambda: _int8(zeros=3),
        lambda: _int4(16),
        lambda: _int4(64, order=torch.arange(COLUMNS) % 4),
        lambda: _int4(64).select_rows(slice(0, 100)),
        lambda: _int8().select_rows(slice(0, 8)).select_rows(torch.tensor([1])),
    ],
    ids=["zero_point", "small_groups", "ordered", "odd_rows", "int8_of_one_row"],
)
def test_what_torch_has_no_operation_for_is_dequantized(make):
    matrix = make()
    layer = linear_of([matrix], dtype=torch.bfloat16)
    is_int8 = matrix.shape[0] == 1
    assert isinstance(layer, Int8Linear if is_int8 else QuantizedLinear)
    x = torch.randn(3, COLUMNS).bfloat16()
    exact = x.double() @ matrix.dequantize(torch.float64).t()
    assert float((layer(x).double() - exact).norm() / exact.norm()) < 0.02


def test_unsigned_codes_around_128_are_the_same_8_bits():
    signed = _int8()
    unsigned = GroupMatrix(signed.codes.view(torch.uint8) ^ 128, signed.scales, 128)
    x = torch.randn(3, COLUMNS)
    layers = [linear_of([matrix], dtype=torch.float32) for matrix in (signed, unsigned)]
    assert [type(layer) for layer in layers] == [Int8Linear, Int8Linear]
    assert torch.equal(layers[0](x), layers[1](x))


def test_a_cpu_that_packs_otherwise_dequantizes(monkeypatch):
    monkeypatch.setattr(packed_linear, "_has_layout", lambda: False)
    assert isinstance(linear_of([_int4()], dtype=torch.bfloat16), QuantizedLinear)


def test_4_bits_in_float32_keep_the_exact_scales():
    matrix = _int4(64, zeros=8)
    layer = linear_of([matrix], dtype=torch.float32)
    assert isinstance(layer, QuantizedLinear)
    assert _error(layer, matrix, 3, torch.float32) < 1e-5


def test_8_bits_whose_values_a_format_rounds_to_float16_stay_rounded_in_float32():
    matrix = _int8(arithmetic=torch.float16)
    assert isinstance(linear_of([matrix], dtype=torch.float32), QuantizedLinear)
    assert isinstance(linear_of([matrix], dtype=torch.bfloat16), Int8Linear)
