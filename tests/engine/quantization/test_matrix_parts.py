"""Parts of a matrix have the values of the whole, in every layout; what cannot be divided says what to do."""

import pytest
import torch

from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import CodebookMatrix, DenseMatrix, Float8Matrix, GroupMatrix, Matrix
from servery.engine.quantization.matrix_parts import device_of, moved, select
from servery.engine.quantization.nested_matrix import NestedMatrix
from tests.engine.one_device import META

ROWS, COLUMNS = 12, 64


def codes(bits: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(bits)
    return torch.randint(0, 256, (ROWS, COLUMNS * bits // 8), generator=generator).to(torch.uint8)


def scales(groups: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(0.5, 2.0, ROWS * groups).view(ROWS, groups).to(dtype)


def small(groups: int) -> torch.Tensor:
    return torch.arange(ROWS * groups).remainder(50).to(torch.uint8).view(ROWS, groups)


MATRICES: dict[str, Matrix] = {
    "dense": DenseMatrix(torch.arange(ROWS * COLUMNS).float().view(ROWS, COLUMNS)),
    "int8 by channel": GroupMatrix(codes(8).view(torch.int8), scales(1)),
    "int4 by group": GroupMatrix(codes(4), scales(4), zeros=torch.ones(ROWS, 4), bits=4),
    "int4 with minima": GroupMatrix(codes(4), scales(4), minima=scales(4), bits=4),
    "int4 in another order": GroupMatrix(
        codes(4), scales(4), zeros=8, bits=4, order=torch.arange(COLUMNS).flip(0) // 16
    ),
    "float8 by block": Float8Matrix(codes(8).clamp(max=120).view(torch.float8_e4m3fn), scales(4), group_size=16),
    "float8 by row": Float8Matrix(codes(8).clamp(max=120).view(torch.float8_e4m3fn), scales(1)),
    "float8, one scale": Float8Matrix(
        codes(8).clamp(max=120).view(torch.float8_e4m3fn), torch.tensor([[2.0]]).expand(ROWS, 1), group_size=COLUMNS
    ),
    "codebook": CodebookMatrix(codes(4), torch.linspace(-1, 1, 16), scales(4)),
    "nested": NestedMatrix(codes(4), small(4), scales(2, torch.float16), small(4), scales(2, torch.float16), bits=4),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_part_has_the_values_of_the_whole(name: str) -> None:
    matrix = MATRICES[name]
    whole = matrix.dequantize(torch.float32)
    rows = (slice(1, 3), slice(7, 12))
    expected = torch.cat((whole[1:3], whole[7:12]))
    assert torch.equal(select(matrix, rows, None).dequantize(torch.float32), expected)
    for columns in (slice(0, 32), slice(32, 64)):
        part = select(matrix, rows, columns)
        assert torch.equal(part.dequantize(torch.float32), expected[:, columns])
        assert part.shape == (7, 32)
        assert part.nbytes < matrix.nbytes


def test_columns_that_share_a_scale_or_a_byte_stay_together() -> None:
    with pytest.raises(LoadError, match=r"columns 8 to 24 of a matrix of 64 .* each 16 share a scale\. Lower --tensor"):
        select(MATRICES["int4 by group"], None, slice(8, 24))
    with pytest.raises(LoadError, match="2 codes share a byte"):
        select(MATRICES["int4 in another order"], None, slice(3, 33))


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_moves_with_all_of_its_parts(name: str) -> None:
    matrix = MATRICES[name]
    there = moved(matrix, lambda tensor: tensor.to(META))
    assert (device_of(there), there.shape, there.nbytes) == (META, matrix.shape, matrix.nbytes)
    assert device_of(matrix) == torch.device("cpu")
