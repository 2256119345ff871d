"""The pure parts of the measurement of what a step costs besides the model."""

import pytest

from benchmarks.host_overhead import PerStep, fitted, limit_s, table


def test_the_aim_grows_with_the_sequences():
    assert [limit_s(1), limit_s(64)] == pytest.approx([103e-6, 292e-6])


def test_a_straight_line_is_found():
    assert fitted({1: 103e-6, 4: 112e-6, 16: 148e-6}) == pytest.approx((100e-6, 3e-6))
    assert fitted({1: 103e-6}) == (0, 0)


def test_the_table_has_medians():
    runs = {4: [PerStep(1e-6, 2e-6), PerStep(3e-6, 9e-6), PerStep(5e-6, 4e-6)]}
    assert [list(column.cells) for column in table(runs).columns] == [["4"], ["3"], ["4"], ["9"], ["112"]]
