import math

import pytest
import torch

from servery.engine.quantization.rounding import coded, rounded, rounded_to_float8
from servery.engine.quantization.scheme import Rounding


def _bfloat16(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32).bfloat16())


def _half_to_even(value: float) -> int:
    return round(value)  # Python rounds halves to even


def _reference_int8(row: list[float]) -> tuple[float, list[int]]:
    scale = _bfloat16(max(map(abs, row)) / 127) or 1.0
    return scale, [max(-127, min(127, _half_to_even(value / scale))) for value in row]


def _reference_int4(group: list[float]) -> tuple[float, int, list[int]]:
    low, high = min(0.0, *group), max(0.0, *group)
    scale = _bfloat16((high - low) / 15) or 1.0
    zero = max(0, min(15, _half_to_even(-low / scale)))
    return scale, zero, [max(0, min(15, _half_to_even(value / scale) + zero)) for value in group]


def _weight(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-4, 2, rows).unsqueeze(1)
    weight[1] = 0.0
    weight[2, :32] = weight[2, :32].abs() + 1.0  # all on one side of 0
    weight[3, ::7] *= 50
    return weight


def test_int8_equals_a_float64_reference_by_row() -> None:
    weight = _weight(8, 96)
    matrix = rounded(weight, Rounding(8))
    expected = [_reference_int8([float(value) for value in row]) for row in weight.double()]
    assert matrix.scales.flatten().tolist() == [scale for scale, _ in expected]
    differing = (matrix.codes.int() - torch.tensor([codes for _, codes in expected])).abs()
    assert int(differing.max()) <= 1  # at ties, which float32 and float64 see apart
    assert float(differing.float().mean()) < 0.005


@pytest.mark.parametrize("size", [32, 96])
def test_int4_equals_a_float64_reference_by_group(size: int) -> None:
    weight = _weight(8, 96)
    matrix = rounded(weight, Rounding(4, size))
    groups = [[float(v) for v in group] for row in weight.double() for group in row.view(-1, size)]
    expected = [_reference_int4(group) for group in groups]
    assert matrix.scales.float().flatten().tolist() == [scale for scale, _, _ in expected]
    assert isinstance(matrix.zeros, torch.Tensor)
    assert matrix.zeros.flatten().tolist() == [zero for _, zero, _ in expected]
    differing = (matrix.integers().int().view(-1, size) - torch.tensor([codes for _, _, codes in expected])).abs()
    assert int(differing.max()) <= 1
    assert float(differing.float().mean()) < 0.005


@pytest.mark.parametrize("rounding", [Rounding(8), Rounding(4, 32), Rounding(4, 128)])
def test_no_value_is_off_by_more_than_half_a_step(rounding: Rounding) -> None:
    weight = _weight(8, 128)
    matrix = rounded(weight, rounding)
    values = matrix.integers().float()
    if isinstance(matrix.zeros, torch.Tensor):
        values = values - matrix.zeros.float().repeat_interleave(matrix.group_size, 1)
    scales = matrix.scales.float().repeat_interleave(matrix.group_size, 1)
    # 4 bits: the zero point is rounded as well, and the bfloat16 scale may fall short of the range by 2^-8 of it.
    allowed = 0.5001 if rounding.bits == 8 else 1.0 + 15 / 256
    assert bool(((values * scales - weight).abs() <= allowed * scales).all())
    assert bool((matrix.dequantize(torch.float32)[weight == 0] == 0).all())


def _float8_numbers() -> torch.Tensor:
    """All numbers of e4m3 (OCP's OFP8, table 1) in order, by their definition."""
    codes = [(sign, exponent, mantissa) for sign in (1, -1) for exponent in range(16) for mantissa in range(8)]
    finite = [each for each in codes if each[1:] != (15, 7)]
    values = [s * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)) for s, e, m in finite]
    return torch.tensor(sorted({*values}), dtype=torch.float64)


def test_float8_is_the_nearest_number_of_the_format_by_row() -> None:
    weight = _weight(8, 96)
    matrix = rounded_to_float8(weight)
    largest = weight.abs().amax(1, keepdim=True)
    assert torch.equal(matrix.scales, torch.where(largest == 0, 1.0, largest / 448))
    exact = (weight / matrix.scales).double()
    nearest = (exact[..., None] - _float8_numbers()).abs().amin(-1)
    found = (exact - matrix.codes.double()).abs()
    assert torch.equal(found, nearest)
    assert torch.equal(matrix.dequantize(torch.float32), matrix.codes.float() * matrix.scales)
    assert bool((matrix.dequantize(torch.float32)[weight == 0] == 0).all())
    assert bool((matrix.codes.float().abs().amax(1) == torch.where(largest[:, 0] == 0, 0.0, 448.0)).all())


def test_rows_are_rounded_alike_whatever_stands_beside_them() -> None:
    weight = torch.randn(3000, 64, generator=torch.Generator().manual_seed(1))
    whole, part = rounded(weight, Rounding(4, 32)), rounded(weight[1500:1600], Rounding(4, 32))
    assert torch.equal(whole.codes[1500:1600], part.codes)
    assert torch.equal(whole.scales[1500:1600], part.scales)


def test_bytes_are_those_that_were_planned() -> None:
    for rounding in (Rounding(8), Rounding(4, 32), Rounding(4, 64), Rounding(8, is_float=True)):
        assert coded(torch.ones(6, 64), rounding).nbytes == rounding.num_bytes(6, 64)
    assert math.isclose(Rounding(4, 128).num_bytes(1000, 1024) * 8 / 1024_000, 4.1875)
