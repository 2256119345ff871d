"""Figures are written with their unit, their range and as many digits as say something."""

import pytest

from benchmarks.claims.claim import Reading
from benchmarks.claims.figure import number, shown


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (524288.0, "B", "524,288"),
        (2.345, "x", "2.35"),
        (23.45, "x", "23"),
        (13.476, "GB", "13.5"),
        (0.328, "MB", "0.33"),
        (138.4, "GB", "138"),
        (0.61, "%", "0.6"),
        (-0.125, "points", "-0.12"),
        (12.34, "ms", "12.3"),
        (496.0, "tokens", "496"),
    ],
)
def test_numbers_have_the_digits_of_their_unit(value: float, unit: str, written: str) -> None:
    assert number(value, unit) == written


def test_a_range_is_told_where_rounds_differ() -> None:
    assert shown(Reading("amuse", 2.0, 1.5, 2.5), "x") == "amuse: **2.00 x** (1.50 to 2.50)"
    assert shown(Reading("amuse", 2.0, 2.001, 2.002), "x") == "amuse: **2.00 x**"
    assert shown(Reading("bill", 4200.0), "$") == "bill: **$4,200**"
    assert shown(Reading("bill", 2.88), "$ M") == "bill: **$2.88 M**"
    assert shown(Reading("amuse", 70.0), "/s") == "amuse: **70.0/s**"
