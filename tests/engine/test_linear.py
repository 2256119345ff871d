import pytest
import torch

from servery.engine import linear as linear_module
from servery.engine.embedding import Embedding
from servery.engine.linear import DenseLinear, QuantizedLinear, StackedLinear, linear_of
from servery.engine.packed_linear import Int8Linear
from servery.engine.quantization.matrix import DenseMatrix, GroupMatrix, Matrix, pack_halves

COLUMNS = 32


def _dense(rows: int) -> Matrix:
    return DenseMatrix(torch.randn(rows, COLUMNS))


def _int8(rows: int) -> Matrix:
    return GroupMatrix(torch.randint(-128, 128, (rows, COLUMNS)).to(torch.int8), torch.rand(rows, 1))


def _int4(rows: int) -> Matrix:
    return GroupMatrix(pack_halves(torch.randint(0, 16, (rows, COLUMNS))), torch.rand(rows, 2), 8, bits=4)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([_dense, _dense], DenseLinear),
        ([_int8], Int8Linear),
        ([_int4, _int4, _int4], QuantizedLinear),
        ([_int8, _int4, _dense], StackedLinear),
    ],
)
def test_every_layout_multiplies_by_its_values(parts, kind, has_bias, monkeypatch):
    monkeypatch.setattr(linear_module, "TILE_VALUES", 3 * COLUMNS)  # several tiles, the last one smaller
    matrices = [make(rows) for make, rows in zip(parts, (7, 4, 5), strict=False)]
    weight = torch.cat([each.dequantize(torch.float32) for each in matrices])
    bias = torch.randn(len(weight)) if has_bias else None
    layer = linear_of(matrices, bias)
    x, residual = torch.randn(5, COLUMNS), torch.randn(5, len(weight))
    before = residual.clone()
    expected = torch.nn.functional.linear(x, weight, bias)
    assert (type(layer), layer.shape) == (kind, (len(weight), COLUMNS))
    assert layer.nbytes == sum(each.nbytes for each in matrices) + (len(weight) * 4 if has_bias else 0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.add_to(residual, x), before + expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(residual, before)


def test_an_embedding_of_codes_gives_the_same_rows_as_their_values():
    ids = torch.tensor([3, 0, 3])
    for matrix in (_int4(6), _dense(6)):
        table = Embedding(matrix, torch.bfloat16 if isinstance(matrix, GroupMatrix) else torch.float32)
        values = matrix.dequantize(torch.float32)[ids]
        assert torch.equal(table(ids), values.to(table(ids).dtype))
        assert table.nbytes == matrix.nbytes
