"""Products with weights in codes, interpreted, against the same in float64."""

from dataclasses import replace

import pytest
import torch

from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.linear import CodedLinear, LinearOptions, RoundedCodedLinear, coded_linear
from servery.engine.cuda.measured import Measured
from servery.engine.cuda.product_tiles import ProductTile
from servery.engine.quantization.matrix import CodebookMatrix, DenseMatrix, Float8Matrix, GroupMatrix
from servery.engine.quantization.nested_matrix import NestedMatrix
from servery.engine.quantization.rounding import rounded
from servery.engine.quantization.scheme import Rounding
from servery.engine.rounded_linear import RoundedLinear

N, K = 24, 192
GENERATOR = torch.Generator().manual_seed(3)


def randn(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=GENERATOR)


def codes(*size: int, high: int = 256) -> torch.Tensor:
    return torch.randint(0, high, size, generator=GENERATOR, dtype=torch.uint8)


def scales(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=GENERATOR) + 0.1


WEIGHT = randn(N, K)
MATRICES = {
    "int8": rounded(WEIGHT, Rounding(8)),
    "uint8_around_128": GroupMatrix(codes(N, K), scales(N, 1), zeros=128, unit=0.5),
    "uint8_with_zeros": GroupMatrix(codes(N, K), scales(N, 3), zeros=codes(N, 3)),
    "int4": GroupMatrix(codes(N, K // 2), scales(N, 6), zeros=codes(N, 6, high=16), bits=4),
    "int4_around_8": GroupMatrix(codes(N, K // 2), scales(N, 1), zeros=8, bits=4),
    "int4_with_minima": GroupMatrix(codes(N, K // 2), scales(N, 6), minima=scales(N, 6), bits=4),
    "float8": Float8Matrix(WEIGHT.to(torch.float8_e4m3fn), scales(N, 1)),
    "float8_by_group": Float8Matrix(WEIGHT.to(torch.float8_e4m3fn), scales(N, 3)),
    "codebook": CodebookMatrix(codes(N, K // 2), randn(16), scales(N, 6)),
    "nested": NestedMatrix(
        codes(N, K // 2), codes(N, 6, high=64), scales(N, 2).half(), codes(N, 6, high=64), scales(N, 2).half(), bits=4
    ),
}
# Of the sum's size: how far it may be off for x as it is, in float32 sums.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def many_rows(count: int) -> Measured:
    return Measured(many_rows={"int8": count, "int4": count})


def exact(x: torch.Tensor, matrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    y = x.double() @ matrix.dequantize(torch.float32).double().t()
    return y if bias is None else y + bias.double()


def assert_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_codes_are_multiplied_as_they_are(name: str, dtype: torch.dtype) -> None:
    weight, x, bias = CodedWeight.of(MATRICES[name]), randn(3, K).to(dtype), randn(N).to(dtype)
    assert weight is not None
    expected = exact(x, MATRICES[name], bias)
    assert_near(weight.product(x, bias, tile=ProductTile(16, 32)), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["int4", "float8"])
def test_a_sum_that_is_cut_is_the_same_sum(name: str) -> None:
    weight, x, bias = CodedWeight.of(MATRICES[name]), randn(20, K), randn(N)
    assert weight is not None
    assert_near(weight.product(x, bias, splits=4), exact(x, MATRICES[name], bias), 1e-6)


@pytest.mark.parametrize("name", MATRICES)
def test_codes_are_turned_into_the_matrix_values(name: str) -> None:
    weight = CodedWeight.of(MATRICES[name])
    assert weight is not None
    torch.testing.assert_close(
        weight.values(torch.float32), MATRICES[name].dequantize(torch.float32), rtol=1e-5, atol=1e-4
    )


def test_sizes_that_fill_no_tile_are_masked() -> None:
    matrix = rounded(randn(5, 50), Rounding(8))
    weight, x = CodedWeight.of(matrix), randn(2, 53)[:, :50]
    assert weight is not None
    assert_near(weight.product(x), exact(x, matrix), 1e-6)
    torch.testing.assert_close(weight.values(torch.float32), matrix.dequantize(torch.float32))


def test_many_rows_are_multiplied_as_numbers() -> None:
    x, bias = randn(5, K), randn(N)
    for name in ("int8", "int4"):
        layer = coded_linear(MATRICES[name], bias, LinearOptions(many_rows(4)))
        assert isinstance(layer, CodedLinear)
        assert layer.shape == (N, K)
        for rows in (3, 5):
            assert_near(layer(x[:rows]), exact(x[:rows], MATRICES[name], bias), 1e-6)
        assert_near(layer.add_to(x[:, :N], x), exact(x, MATRICES[name], bias) + x[:, :N], 1e-6)


def test_an_input_that_is_to_be_rounded_is() -> None:
    matrix = replace(MATRICES["int8"], rounds_input=True)
    layer, x, bias = coded_linear(matrix, randn(N), LinearOptions(many_rows(17))), randn(20, K), randn(N)
    assert isinstance(layer, RoundedCodedLinear)
    layer.bias = bias
    for rows in (3, 20):
        torch.testing.assert_close(layer(x[:rows]), RoundedLinear(matrix, bias)(x[:rows]), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["dense", "int4"])
def test_with_invariance_a_row_never_depends_on_the_others(name: str) -> None:
    matrix = DenseMatrix(WEIGHT) if name == "dense" else MATRICES[name]
    layer, x = coded_linear(matrix, None, LinearOptions(many_rows(4), invariant=True)), randn(70, K)
    assert layer is not None
    together = layer(x)
    assert_near(together, exact(x, matrix), 1e-6)
    assert torch.equal(layer(x[66:67]), together[66:67])


def test_numbers_are_multiplied_by_the_kernel_where_that_was_measured_to_be_quicker() -> None:
    measured = Measured(product={"dense": ProductTile(16, 32)}, many_rows={"dense": 4})
    layer, x, bias = coded_linear(DenseMatrix(WEIGHT), randn(N), LinearOptions(measured)), randn(5, K), randn(N)
    assert isinstance(layer, CodedLinear)
    layer.bias = bias
    for rows in (3, 5):
        assert_near(layer(x[:rows]), exact(x[:rows], DenseMatrix(WEIGHT), bias), 1e-6)


def test_torch_multiplies_what_there_is_no_kernel_for() -> None:
    order = torch.arange(K) % 2
    unordered = GroupMatrix(codes(N, K), scales(N, 2), order=order)
    uneven = GroupMatrix(codes(N, 40), scales(N, 2))
    for matrix in (DenseMatrix(WEIGHT), unordered, uneven):
        assert coded_linear(matrix, None, LinearOptions()) is None


def test_a_product_of_few_columns_is_cut_to_fill_the_device() -> None:
    matrix = rounded(randn(32, 4096), Rounding(8))
    weight = CodedWeight.of(matrix)
    assert weight is not None
    assert weight.splits(1, ProductTile(16, 32), torch.device("cpu")) == 8
    assert weight.splits(4096, ProductTile(16, 32), torch.device("cpu")) == 1
