import pytest
import torch

from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import GroupMatrix, stack_rows
from servery.engine.quantization.nested_matrix import NestedMatrix


def nested(rows=3, **changes):
    """Two units of two groups of four columns."""
    generator = torch.Generator().manual_seed(rows)
    parts = {
        "codes": torch.randint(0, 64, (rows, 16), generator=generator, dtype=torch.uint8),
        "scale_codes": torch.randint(-128, 128, (rows, 4), generator=generator, dtype=torch.int8),
        "unit_scales": torch.randn(rows, 2, generator=generator).half(),
        "zeros": 32,
    }
    return NestedMatrix(**parts | changes)


def test_scales_are_computed_before_the_values():
    matrix = nested()
    scales = matrix.unit_scales.float().repeat_interleave(2, 1) * matrix.scale_codes
    expected = GroupMatrix(matrix.codes, scales, zeros=32).dequantize(torch.float32)
    assert torch.equal(matrix.dequantize(torch.float32), expected)


def test_minima_are_subtracted():
    numbers = torch.arange(12, dtype=torch.uint8).view(3, 4)
    units = torch.tensor([[0.5, 2.0]]).half().expand(3, 2)
    plain, matrix = nested(), nested(minimum_codes=numbers, unit_minima=units)
    minima = (torch.tensor([0.5, 0.5, 2.0, 2.0]) * numbers).repeat_interleave(4, 1)
    assert torch.equal(matrix.dequantize(torch.float32), plain.dequantize(torch.float32) - minima)


def test_all_its_parts_count():
    matrix = nested()
    assert matrix.nbytes == 3 * (16 + 4 + 2 * 2)


def test_rows_are_those_of_every_part():
    one, other = nested(3), nested(2)
    stacked = stack_rows([one, other.select_rows(torch.tensor([1]))])
    expected = torch.cat([one.dequantize(torch.float32), other.dequantize(torch.float32)[1:]])
    assert torch.equal(stacked.dequantize(torch.float32), expected)


def test_matrices_with_another_zero_are_not_stacked():
    assert stack_rows([nested(), nested(zeros=8)]) is None


def test_units_that_do_not_divide_the_groups_are_refused():
    with pytest.raises(LoadError, match=r"4 scales cannot be divided among 3 units"):
        nested(unit_scales=torch.ones(3, 3).half())
