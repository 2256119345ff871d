"""Ticks are round, inside, and few; places run from 0 to 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.bench.page.axis import Axis, shown


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.booleans())
def test_an_axis_of_any_values_has_ticks_inside(low: float, span: float, is_log: bool) -> None:
    values = [abs(low) + 1e-3, abs(low) + 1e-3 + span] if is_log else [low, low + span]
    axis = Axis.over(values, is_log=is_log)
    places = [axis.place(tick) for tick in axis.ticks]
    assert places == sorted(places)
    assert is_log or 3 <= len(places) <= 8
    hair = 1e-9 * (axis.high - axis.low)  # ticks are rounded, so that none is called 0.30000000000000004
    assert all(axis.low - hair <= tick <= axis.high + hair for tick in axis.ticks)
    assert all(0 <= axis.place(value) <= 1 for value in values)


def test_nothing_and_one_value_still_make_an_axis() -> None:
    assert Axis.over([]) == Axis(0.0, 1.0)
    assert Axis.over([5.0]).low < Axis.over([5.0]).high
    assert Axis.over([3.0], is_log=True).place(3.0) == pytest.approx(0.2, abs=0.25)


def test_powers_lie_evenly_on_a_logarithmic_axis() -> None:
    axis = Axis(1.0, 1000.0, is_log=True)
    assert [axis.place(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert axis.ticks == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def test_a_narrow_logarithmic_axis_has_ticks_to_read_it_by() -> None:
    assert Axis(4.0, 8.0, is_log=True).ticks == [4, 5, 6, 7, 8]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.25, "0.25"), (1500, "1500"), (20_000, "20k")])
def test_labels_are_short(value: float, text: str) -> None:
    assert shown(value) == text
