import numpy as np
import pytest
import torch

from servery.engine.linear import QuantizedLinear, linear_of
from servery.engine.quantization.matrix import GroupMatrix
from servery.engine.rounded_linear import RoundedLinear, rounded_rows

ROWS, COLUMNS = 24, 48


def matrix(groups: int = 1, zeros: torch.Tensor | int = 0) -> GroupMatrix:
    torch.manual_seed(5)
    codes = torch.randint(-128, 128, (ROWS, COLUMNS)).to(torch.int8)
    return GroupMatrix(codes, torch.rand(ROWS, groups) / 100, zeros, rounds_input=True)


def by_definition(x: torch.Tensor, weight: GroupMatrix) -> torch.Tensor:
    """With whole numbers of any size, and floats in the stated order."""
    largest = np.abs(x.float().numpy()).max(axis=1, keepdims=True)
    scales = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
    codes = np.rint(x.float().numpy() / scales).astype(np.int64)
    zeros = weight.zeros.numpy() if isinstance(weight.zeros, torch.Tensor) else weight.zeros
    products = codes @ (weight.codes.numpy().astype(np.int64) - zeros).T
    return torch.from_numpy(products.astype(np.float32) * weight.scales.numpy().T * scales).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize(
    "zeros", [0, 3, torch.arange(ROWS, dtype=torch.int8).unsqueeze(1)], ids=["none", "one", "each"]
)
def test_whole_numbers_are_multiplied_exactly(dtype, rows, zeros):
    x = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = matrix(zeros=zeros)
    layer = linear_of([weight])
    assert isinstance(layer, RoundedLinear)
    assert torch.equal(layer(x), by_definition(x, weight))


def test_a_row_is_rounded_by_its_own_largest_value_and_zeros_stay_zeros():
    codes, scales = rounded_rows(torch.tensor([[1.0, -2.0, 0.011], [0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[64, -127, 1], [0, 0, 0]]
    assert scales[0].item() == pytest.approx(2 / 127)


def test_a_row_does_not_depend_on_the_others():
    x = torch.randn(5, COLUMNS)
    layer = linear_of([matrix()])
    assert torch.equal(torch.cat([layer(row) for row in x.split(1)]), layer(x))


@pytest.mark.parametrize("has_bias", [False, True])
def test_other_layouts_run_on_the_rounded_input(has_bias):
    weight, bias = matrix(groups=3), torch.randn(ROWS) if has_bias else None
    x = torch.randn(4, COLUMNS)
    layer = linear_of([weight], bias)
    codes, scales = rounded_rows(x)
    expected = (codes * scales) @ weight.dequantize(torch.float32).t() + (0 if bias is None else bias)
    assert isinstance(layer, QuantizedLinear)
    torch.testing.assert_close(layer(x), expected)


def test_bias_residual_and_sizes():
    weight, bias, residual = matrix(), torch.randn(ROWS), torch.randn(4, ROWS)
    x = torch.randn(4, COLUMNS)
    plain, layer = linear_of([weight]), linear_of([weight], bias)
    assert torch.equal(layer(x), plain(x) + bias)
    assert torch.equal(layer.add_to(residual, x), plain(x) + bias + residual)
    assert (layer.shape, layer.nbytes) == ((ROWS, COLUMNS), ROWS * COLUMNS + 4 * ROWS + 4 * ROWS)
