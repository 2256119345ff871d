import numpy as np
import pytest
import torch
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import (
    CodebookMatrix,
    DenseMatrix,
    Float8Matrix,
    GroupMatrix,
    Matrix,
    pack_halves,
    stack_rows,
    unpack_halves,
)

ROWS, COLUMNS, GROUPS = 6, 32, 4


def _codes(low: int, high: int) -> Tensor:
    return torch.randint(low, high, (ROWS, COLUMNS))


def _scales(groups: int = GROUPS, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.rand(ROWS, groups) + 0.01).to(dtype)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def _every_kind() -> list[Matrix]:
    return [
        DenseMatrix(torch.randn(ROWS, COLUMNS)),
        GroupMatrix(_codes(-128, 128).to(torch.int8), _scales(1)),
        GroupMatrix(pack_halves(_codes(0, 16)), _scales(), 8, bits=4),
        GroupMatrix(pack_halves(_codes(0, 16)), _scales(), _codes(0, 16)[:, :GROUPS].to(torch.uint8), bits=4),
        GroupMatrix(pack_halves(_codes(0, 16)), _scales(), minima=_scales(), bits=4, arithmetic=torch.float32),
        GroupMatrix(pack_halves(_codes(0, 16)), _scales(), 8, order=torch.arange(COLUMNS) % GROUPS, bits=4),
        Float8Matrix(torch.randn(ROWS, COLUMNS).to(torch.float8_e4m3fn), _scales(1, torch.float32)),
        CodebookMatrix(pack_halves(_codes(0, 16)), torch.linspace(-1, 1, 16), _scales(), torch.float32),
    ]


def test_two_codes_share_a_byte_the_even_column_in_the_low_half() -> None:
    codes = torch.tensor([[1, 2, 15, 0]])
    assert pack_halves(codes).tolist() == [[0x21, 0x0F]]
    assert unpack_halves(pack_halves(codes)).tolist() == codes.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
def test_group_values_equal_a_loop_in_the_arithmetic_of_the_format(bits: int, dtype: torch.dtype) -> None:
    codes, zeros = _codes(0, 1 << bits), _codes(0, 1 << bits)[:, :GROUPS].to(torch.uint8)
    scales = _scales(dtype=dtype)
    packed = codes.to(torch.uint8) if bits == 8 else pack_halves(codes)
    expected = torch.empty(ROWS, COLUMNS, dtype=dtype)
    for row in range(ROWS):
        for column in range(COLUMNS):
            group = column // (COLUMNS // GROUPS)
            whole = torch.tensor(int(codes[row, column]) - int(zeros[row, group])).to(dtype)
            expected[row, column] = whole * scales[row, group]
    assert torch.equal(GroupMatrix(packed, scales, zeros, bits=bits).dequantize(dtype), expected)


def test_minima_are_taken_off_after_scaling_as_gguf_does_it() -> None:
    codes, scales, minima = _codes(0, 16), _scales(), _scales()
    matrix = GroupMatrix(pack_halves(codes), scales, minima=minima, bits=4, arithmetic=torch.float32)
    wide = np.repeat(scales.float().numpy(), COLUMNS // GROUPS, 1)
    low = np.repeat(minima.float().numpy(), COLUMNS // GROUPS, 1)
    expected = wide * codes.numpy().astype(np.float32) - low
    assert matrix.dequantize(torch.float32).numpy().tobytes() == expected.tobytes()


def test_order_names_the_group_of_each_column() -> None:
    codes, scales, order = _codes(0, 16), _scales(), torch.randperm(COLUMNS) % GROUPS
    zeros = _codes(0, 16)[:, :GROUPS].to(torch.uint8)
    matrix = GroupMatrix(pack_halves(codes), scales, zeros, order=order, bits=4)
    expected = (codes - zeros.long()[:, order]).half() * scales[:, order]
    assert torch.equal(matrix.dequantize(torch.float16), expected)


def test_float8_scales_of_blocks_that_do_not_fill_the_last_one() -> None:
    codes = torch.randn(ROWS, COLUMNS).to(torch.float8_e4m3fn)
    scales = _scales(3, torch.float32)
    matrix = Float8Matrix(codes, scales, group_size=12)
    expected = torch.stack([codes.float()[:, k] * scales[:, k // 12] for k in range(COLUMNS)], 1)
    assert torch.equal(matrix.dequantize(torch.float32), expected)


def test_codebook_values_are_looked_up_and_scaled() -> None:
    codes, book, scales = _codes(0, 16), torch.randn(16), _scales(dtype=torch.float32)
    expected = book[codes] * scales.repeat_interleave(COLUMNS // GROUPS, 1)
    assert torch.equal(CodebookMatrix(pack_halves(codes), book, scales).dequantize(torch.float32), expected)


@pytest.mark.parametrize("index", [torch.tensor([5, 0, 3]), slice(1, 4)], ids=["reordered", "slice"])
def test_selecting_rows_selects_rows_of_the_values(index: Tensor | slice) -> None:
    for matrix in _every_kind():
        selected = matrix.select_rows(index)
        assert selected.shape == (3, COLUMNS)
        assert torch.equal(selected.dequantize(torch.float32), matrix.dequantize(torch.float32)[index])


def test_rows_of_the_same_layout_stack_to_one_matrix() -> None:
    for one, other in zip(_every_kind(), _every_kind(), strict=True):
        stacked = stack_rows([one, other])
        assert stacked is not None
        both = torch.cat([one.dequantize(torch.float32), other.dequantize(torch.float32)])
        assert torch.equal(stacked.dequantize(torch.float32), both)


def test_rows_of_different_layouts_do_not_stack() -> None:
    kinds = _every_kind()
    assert [stack_rows([kinds[0], other]) for other in kinds[1:]] == [None] * 7
    plain, ordered = kinds[2], kinds[5]
    assert stack_rows([plain, ordered]) is None
    coarse = GroupMatrix(pack_halves(_codes(0, 16)), _scales(2), 8, bits=4)
    wide = GroupMatrix(pack_halves(_codes(0, 16)), _scales(dtype=torch.float32), 8, bits=4)
    assert stack_rows([plain, coarse]) is None
    assert stack_rows([plain, wide]) is None


def test_bytes_are_those_that_are_held() -> None:
    assert [matrix.nbytes for matrix in _every_kind()] == [768, 204, 144, 168, 192, 400, 216, 208]
    expanded = torch.ones(1, 1).expand(ROWS, 1)
    assert Float8Matrix(torch.zeros(ROWS, COLUMNS).to(torch.float8_e4m3fn), expanded).nbytes == ROWS * COLUMNS + 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupMatrix(_codes(0, 9).to(torch.int8), _scales(5)), "32 columns cannot be divided into 5 groups"),
        (lambda: GroupMatrix(_codes(0, 9).to(torch.int8), _scales()[:2]), r"shapes \[2, 4\]; for 6 rows"),
        (
            lambda: GroupMatrix(_codes(0, 9).to(torch.int8), _scales(), torch.zeros(6, 2, dtype=torch.int8)),
            r"\[6, 4\], \[6, 2\]",
        ),
        (lambda: GroupMatrix(_codes(0, 9).to(torch.int8), _scales(), order=torch.arange(3)), r"shape \[3\]"),
        (lambda: GroupMatrix(_codes(0, 8).to(torch.uint8), _scales(), bits=3), "3 bits; 4 and 8"),
        (lambda: Float8Matrix(torch.zeros(6, 32).to(torch.float8_e4m3fn), _scales(5)), r"\[6, 5\]; codes have 6 rows"),
        (lambda: CodebookMatrix(_codes(0, 8).to(torch.uint8), torch.zeros(15), _scales()), r"values \[15\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make: object, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        make()  # type: ignore[operator]
