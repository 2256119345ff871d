"""Native linear layers equal float64 within the bounds that docs/kernels.md derives, whatever the shape."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.linear import DenseLinear, StackedLinear, linear_of
from servery.engine.native.linear import NativeLinear, native_linear
from servery.engine.quantization.matrix import DenseMatrix, Float8Matrix, GroupMatrix, pack_halves
from servery.engine.rounded_linear import RoundedLinear, rounded_rows
from tests.engine.native.kernels import VARIANTS, context, require

pytestmark = pytest.mark.parametrize("variant", VARIANTS)
SHAPES = [(1, 1), (3, 5), (64, 64), (65, 32), (130, 200), (16, 1023)]
ROWS = [1, 2, 5, 6, 7, 13, 250]
BF16_ROUNDOFF = 2.0**-8


def _dense(n, k, dtype=torch.float32):
    return DenseMatrix(torch.randn(n, k).to(dtype))


def _int8(n, k, **changes):
    return GroupMatrix(torch.randint(-128, 128, (n, k)).to(torch.int8), torch.rand(n, 1) + 0.1, **changes)


def _int4(n, k, size, dtype=torch.bfloat16, **changes):
    scales = (torch.rand(n, k // size) + 0.1).to(dtype)
    return GroupMatrix(pack_halves(torch.randint(0, 16, (n, k))), scales, bits=4, **changes)


def _whole_numbers(n, groups):
    return torch.randint(0, 16, (n, groups)).to(torch.uint8)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(5)


def _products(x, matrix):
    """The exact products [rows, n], and for each the sum of the magnitudes that it adds up.

    Codes times scales are not rounded, as they are where a format says so.
    """
    exact = replace(matrix, arithmetic=torch.float32) if isinstance(matrix, GroupMatrix) else matrix
    weight = exact.dequantize(torch.float64)
    return x.double() @ weight.t(), x.double().abs() @ weight.abs().t()


def _rounded(x, groups):
    """What inputs are worth after they were rounded to 8 bits in `groups` groups of each row: exact in float64."""
    codes, scales = rounded_rows(x.reshape(len(x) * groups, -1))
    return (codes.double() * scales.double()).view(x.shape)


def _check(found, exact, magnitudes, terms):
    """float32 sums of `terms` terms (Higham, Accuracy and Stability, section 3.1), then one rounding to the result."""
    allowed = (terms + 4) * 2.0**-24 * magnitudes
    if found.dtype == torch.bfloat16:
        allowed = allowed + exact.abs() * BF16_ROUNDOFF * 1.01
    assert ((found.double() - exact).abs() <= allowed + 1e-37).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("weight_dtype", "x_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
)
def test_dense_products_are_exact_but_for_rounding(variant, shape, weight_dtype, x_dtype):
    n, k = shape
    matrix = _dense(n, k, weight_dtype)
    layer = native_linear(context(require(variant)), matrix, None)
    for rows in ROWS:
        x = torch.randn(rows, k).to(x_dtype)
        _check(layer(x), *_products(x, matrix), k)


@pytest.mark.parametrize("has_zeros", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_8_bits_equal_the_product_of_codes(variant, shape, has_zeros):
    n, k = shape
    matrix = _int8(n, k, zeros=torch.randint(-20, 20, (n, 1)).to(torch.int8) if has_zeros else 0, unit=0.5)
    layer = native_linear(context(require(variant)), matrix, None)
    for rows in ROWS:
        x = torch.randn(rows, k)
        exact, magnitudes = _products(_rounded(x, 1), matrix)
        _check(layer(x), exact, magnitudes, 4)
        _check(layer(x.bfloat16()), *_products(_rounded(x.bfloat16(), 1), matrix), 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: _int4(n, 64, 32, zeros=8),
        lambda n: _int4(n, 192, 64, zeros=_whole_numbers(n, 3), unit=2.0),
        lambda n: _int4(n, 256, 128, torch.float16, zeros=_whole_numbers(n, 2), arithmetic=torch.float32),
        lambda n: _int4(n, 96, 32, torch.float32, minima=torch.rand(n, 3)),
        lambda n: _int4(n, 40, 40),
        lambda n: _int4(n, 16, 8, zeros=3),
    ],
    ids=["symmetric", "zeros", "wide_scales", "minima", "one_group", "small_groups"],
)
def test_4_bits_equal_the_product_of_codes(variant, make):
    for n in (1, 64, 77):
        matrix = make(n)
        layer = native_linear(context(require(variant)), matrix, None)
        weight_parts = matrix if matrix.minima is None else _without_minima(matrix)
        for rows in ROWS:
            x = torch.randn(rows, matrix.shape[1])
            exact, _ = _products(_rounded(x, matrix.num_groups), matrix)
            _, magnitudes = _products(_rounded(x, matrix.num_groups), weight_parts)
            _check(layer(x), exact, 2 * magnitudes, 2 * matrix.num_groups + 4)


def _without_minima(matrix):
    """The terms of a product whose minima are subtracted as a whole: codes are not small beside them."""
    return GroupMatrix(matrix.codes, matrix.scales, zeros=-16, bits=4)


@pytest.mark.parametrize("zeros", [0, 128, torch.arange(88, 128).to(torch.uint8)[:, None]], ids=["0", "128", "many"])
def test_unsigned_codes_are_signed_ones_with_another_zero_point(variant, zeros):
    """So checkpoints hold them; they were left to torch, which is slower."""
    unsigned = torch.randint(0, 256, (40, 64)).to(torch.uint8)
    signed = (unsigned.int() - 128).to(torch.int8)
    of_signed = zeros.int() - 128 if isinstance(zeros, torch.Tensor) else zeros - 128
    scales, x = torch.rand(40, 1), torch.randn(5, 64)
    layers = [
        native_linear(context(require(variant)), GroupMatrix(codes, scales, zeros=zero), None)
        for codes, zero in ((unsigned, zeros), (signed, of_signed))
    ]
    assert torch.equal(*(layer(x) for layer in layers))


def test_8_bit_layers_equal_torchs_own_bit_for_bit(variant):
    matrix = _int8(40, 128, rounds_input=True)
    native, own = native_linear(context(require(variant)), matrix, None), RoundedLinear(matrix)
    x = torch.randn(20, 128)
    assert torch.equal(native(x), own(x))
    assert torch.equal(native(x.bfloat16()), own(x.bfloat16()))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_rows_result_depends_on_nothing_but_the_row(variant, data):
    """Not on other rows, threads, strides, or where in memory anything lies."""
    require(variant)
    draw = data.draw
    n, k = draw(st.integers(1, 200)), draw(st.integers(1, 40)) * 8
    rows, threads = draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 3, 5]))
    make = draw(
        st.sampled_from([_dense, lambda n, k: _dense(n, k, torch.bfloat16), _int8, lambda n, k: _int4(n, k, 8)])
    )
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    matrix, bias = make(n, k), torch.randn(n) if draw(st.booleans()) else None
    wide = torch.randn(rows, k + 7).to(dtype)
    x = wide[:, draw(st.integers(0, 7)) :][:, :k]
    residual = torch.randn(rows, n + 3).to(dtype)[:, 1:][:, :n]
    alone = native_linear(context(variant), matrix, bias)
    together = native_linear(context(variant, threads), matrix, bias)
    expected = torch.cat([alone.add_to(residual[i : i + 1], x[i : i + 1].clone()) for i in range(rows)])
    assert torch.equal(together.add_to(residual, x), expected)
    assert torch.equal(together(x), torch.cat([alone(x[i : i + 1].clone()) for i in range(rows)]))


def test_bias_and_residual_are_added_before_the_only_rounding(variant):
    matrix, bias = _dense(70, 33, torch.bfloat16), torch.randn(70).bfloat16()
    layer = linear_of([matrix], bias, dtype=torch.bfloat16, native=context(require(variant)))
    x, residual = torch.randn(9, 33).bfloat16(), torch.randn(9, 70).bfloat16()
    before = residual.clone()
    exact, magnitudes = _products(x, matrix)
    added = exact + bias.double() + residual.double()
    _check(layer(x), exact + bias.double(), magnitudes + bias.double().abs(), 33)
    _check(layer.add_to(residual, x), added, magnitudes + added.abs() + 3, 33)
    assert torch.equal(residual, before)


def test_wide_inputs_are_computed_in_blocks(variant):
    """More weights in a panel than a block of it holds, more rows than sums are kept for."""
    for matrix in (_dense(20, 9000), _dense(20, 9000, torch.bfloat16), _int8(20, 9000), _int4(20, 9216, 64)):
        layer = native_linear(context(require(variant)), matrix, None)
        x = torch.randn(260, matrix.shape[1])
        assert torch.equal(layer(x)[::50], torch.cat([layer(row.unsqueeze(0)) for row in x[::50]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_shows_in_its_row_and_in_no_other(variant, value):
    for matrix in (_dense(20, 48), _dense(20, 48, torch.bfloat16), _int8(20, 48), _int4(20, 48, 16)):
        layer = native_linear(context(require(variant)), matrix, None)
        x = torch.randn(3, 48)
        x[1, 17] = value
        finite = layer(x).isfinite()
        assert finite[[0, 2]].all()
        assert not finite[1].any()


def test_zeros_give_zeros(variant):
    for matrix in (_dense(20, 48), _dense(20, 48, torch.bfloat16), _int8(20, 48), _int4(20, 48, 16)):
        layer = native_linear(context(require(variant)), matrix, None)
        assert torch.equal(layer(torch.zeros(2, 48)), torch.zeros(2, 20))


def test_float32_weights_that_bfloat16_holds_take_half_the_memory_and_give_the_same(variant):
    weight = torch.randn(70, 33).bfloat16()
    native = context(require(variant))
    long, short = (native_linear(native, DenseMatrix(w), None) for w in (weight.float(), weight))
    x = torch.randn(9, 33)
    assert long.nbytes == short.nbytes
    assert torch.equal(long(x), short(x))
    _check(long(x), *_products(x, DenseMatrix(weight)), 33)


def test_no_rows_give_no_rows(variant):
    layer = native_linear(context(require(variant)), _dense(5, 8), None)
    assert layer(torch.empty(0, 8)).shape == (0, 5)


def test_rows_of_weights_can_be_read_back(variant):
    for matrix in (_dense(70, 33), _dense(70, 33, torch.bfloat16)):
        layer = native_linear(context(require(variant)), matrix, None)
        ids = torch.tensor([69, 0, 3, 3])
        assert torch.equal(layer.weight_rows(ids, matrix.weight.dtype), matrix.weight[ids])
        with pytest.raises(IndexError, match=r"ids up to 70; this layer has 70 rows"):
            layer.weight_rows(torch.tensor([70]), torch.float32)


def test_other_layouts_are_left_to_torch(variant):
    native = context(require(variant))
    ordered = _int4(6, 64, 32, order=torch.arange(64) % 2)
    assert native_linear(native, ordered, None) is None
    assert (
        native_linear(native, Float8Matrix(torch.zeros(6, 64).to(torch.float8_e4m3fn), torch.ones(6, 1)), None) is None
    )
    assert native_linear(native, GroupMatrix(torch.zeros(6, 64).to(torch.int8), torch.ones(6, 2)), None) is None
    mixed = linear_of([_dense(6, 64), ordered], native=native)
    assert isinstance(mixed, StackedLinear)
    assert isinstance(mixed.parts[0], NativeLinear)
    assert isinstance(linear_of([_dense(6, 64)]), DenseLinear)


def test_rows_of_another_width_are_refused(variant):
    layer = native_linear(context(require(variant)), _dense(5, 8), None)
    with pytest.raises(ValueError, match=r"rows have 7 columns; this layer takes 8"):
        layer(torch.zeros(2, 7))


def test_what_is_held_is_told(variant):
    width = {"portable": 16, "avx2": 32}.get(require(variant), 64)
    layer = native_linear(context(variant), _dense(width + 1, 8), torch.zeros(width + 1))
    assert (layer.shape, layer.nbytes) == ((width + 1, 8), 2 * width * 8 * 4 + (width + 1) * 4)


def test_variants_agree(variant):
    """With codes to the last bit, but for int4, whose sums of groups are float32; else within the rounding of sums."""
    others = [each for each in VARIANTS if each != require(variant)]
    x = torch.randn(7, 192)
    for matrix, exact in ((_int8(70, 192), True), (_int4(70, 192, 64), False), (_dense(70, 192), False)):
        mine = native_linear(context(variant), matrix, None)(x)
        for other in others:
            theirs = native_linear(context(other), matrix, None)(x)
            assert torch.equal(mine, theirs) if exact else torch.allclose(mine, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rows", [(64, 128, 64), (128, 40), (40, 128), (64,)])
def test_parts_packed_where_they_lie_are_the_layer_of_the_joined_matrix(variant, rows):
    native, parts = context(variant), [_dense(n, 96, torch.bfloat16) for n in rows]
    joined = native_linear(native, DenseMatrix(torch.cat([part.weight for part in parts])), None)
    layer, x = linear_of(parts, dtype=torch.bfloat16, native=native), torch.randn(3, 96).bfloat16()
    assert (layer.shape, layer.nbytes) == (joined.shape, joined.nbytes)
    assert torch.equal(layer(x), joined(x))
