"""What rounding does to a layer stays within the bounds that docs/kernels.md derives, and these are not loose.

Two for each kind of weights: the largest error that there can be, and the one that independent rounding errors do not
exceed but with probability 2 exp(-T^2 / 2), which grows with the root of the number of columns (Hoeffding's inequality;
Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019). Both are against exact arithmetic on
weights and inputs before either was rounded.
"""

import pytest
import torch

from servery.engine.native.linear import native_linear
from servery.engine.quantization.matrix import DenseMatrix, GroupMatrix
from servery.engine.quantization.rounding import rounded
from servery.engine.quantization.scheme import Rounding
from tests.engine.native.kernels import VARIANTS, context, require

pytestmark = pytest.mark.parametrize("variant", VARIANTS)
T = 6.0  # 3e-8 for each output
U, BF16_U = 2.0**-24, 2.0**-8
COLUMNS, OUTPUTS = 2048, 96
ROWS = [1, 5, 8, 12, 40]  # each way of going through the panels
# Of the division that makes a code, and of scales that are held in bfloat16.
SLACK = 1 + 2.0**-7


@pytest.fixture
def weight():
    torch.manual_seed(11)
    # Columns of very different size, as models have them.
    return (torch.randn(OUTPUTS, COLUMNS) * torch.rand(COLUMNS).exp() / COLUMNS**0.5).bfloat16()


def inputs(rows):
    return (torch.randn(rows, COLUMNS) * torch.rand(COLUMNS).exp()).bfloat16().float()


def check(found, exact, largest, likely):
    error = (found.double() - exact).abs()
    assert (error <= largest).all()
    assert (error <= likely).all()
    assert (likely < largest).all()


def test_sums_of_bfloat16_products(variant, weight):
    layer = native_linear(context(require(variant)), DenseMatrix(weight), None)
    for rows in ROWS:
        x = inputs(rows)
        exact, magnitudes = x.double() @ weight.double().t(), x.double().abs() @ weight.double().abs().t()
        for given, result_u in ((x, 0.0), (x.bfloat16(), BF16_U)):
            of_result = exact.abs() * result_u * SLACK
            largest = (COLUMNS + 4) * U * magnitudes + of_result
            check(layer(given), exact, largest, (T * COLUMNS**0.5 + 4) * U * magnitudes + of_result)


@pytest.mark.parametrize(
    "scheme", [Rounding(bits=8), Rounding(bits=4, group_size=64)], ids=["int8", "int4, groups of 64"]
)
def test_weights_and_inputs_in_few_bits(variant, weight, scheme):
    matrix = rounded(weight, scheme)
    assert isinstance(matrix, GroupMatrix)
    layer = native_linear(context(require(variant)), matrix, None)
    size = COLUMNS // matrix.num_groups
    codes = matrix.dequantize(torch.float64).view(OUTPUTS, matrix.num_groups, size)
    steps = (matrix.scales.double() * matrix.unit).view(OUTPUTS, matrix.num_groups)
    for rows in ROWS:
        x = inputs(rows)
        parts = x.double().view(rows, matrix.num_groups, size)
        x_steps = parts.abs().amax(2) / 127
        exact = x.double() @ weight.double().t()
        floats = (2 * matrix.num_groups + 4) * U * (x.double().abs() @ codes.abs().flatten(1).t()) * 4
        largest = (x_steps @ codes.abs().sum(2).t() + parts.abs().sum(2) @ steps.t()) / 2
        likely = (x_steps**2 @ (codes**2).sum(2).t()).sqrt() + ((parts**2).sum(2) @ (steps**2).t()).sqrt()
        error = (layer(x).double() - exact).abs()
        check(layer(x), exact, largest * SLACK + floats, T / 2 * likely * SLACK + floats)
        assert rows == 1 or error.max() > likely.min() / 4, "a bound that says nothing"
