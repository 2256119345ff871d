"""The slope of a series is that of most of its values, and its interval says what noise leaves open."""

import random

import pytest

from benchmarks.chaos.memory import Slope, slope


def test_the_slope_of_a_line_is_its_own() -> None:
    assert slope([0.0, 1.0, 2.0, 4.0], [5.0, 7.0, 9.0, 13.0]) == Slope(2.0, 2.0, 2.0)


def test_a_leap_and_noise_do_not_make_a_flat_series_grow() -> None:
    chance = random.Random(3)
    values = [100.0 + chance.gauss(0.0, 1.0) for _ in range(200)]
    values[150] = 1e6
    found = slope(list(range(200)), values)
    assert found.low < 0.0 < found.high
    assert abs(found.median) < 0.01


def test_a_leak_is_found_below_the_noise() -> None:
    chance = random.Random(4)
    found = slope(list(range(200)), [0.1 * at + chance.gauss(0.0, 3.0) for at in range(200)])
    assert 0.05 < found.low < 0.1 < found.high < 0.15


def test_two_values_have_no_slope() -> None:
    with pytest.raises(ValueError, match="2 values have no slope"):
        slope([0.0, 1.0], [1.0, 2.0])
