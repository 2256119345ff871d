from hypothesis import given
from hypothesis import strategies as st

from servery.telemetry.judged_minutes import JudgedMinutes, JudgedModels, summed
from servery.telemetry.slo import WINDOWS_S, Count

NOW_S = 1_800_000_000.0


def test_an_exchange_is_in_every_window_that_reaches_it() -> None:
    judged = JudgedModels()
    for ago_s in (3_000_000, 400_000, 10_000, 3_000, 1_000, 100, 0):
        judged.add("m", NOW_S - ago_s, is_good=ago_s != 100)
    assert judged.counts(NOW_S)["m"] == {
        "5m": Count(1, 1), "30m": Count(2, 1), "1h": Count(3, 1), "6h": Count(4, 1), "3d": Count(4, 1), "30d": Count(5, 1),
    }  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 3e6), st.booleans()), max_size=60))
def test_windows_are_right_to_the_minute_and_the_long_ones_to_the_hour(ends: list[tuple[float, bool]]) -> None:
    judged = JudgedMinutes()
    for ago_s, is_good in sorted(ends, reverse=True):
        judged.add(NOW_S - ago_s, is_good=is_good)
    for window, count in judged.counts(NOW_S).items():
        grain_s = 60 if WINDOWS_S[window] <= WINDOWS_S["6h"] else 3_600
        for is_good, counted in ((True, count.good), (False, count.missed)):
            surely = sum(good is is_good and ago_s < WINDOWS_S[window] - grain_s for ago_s, good in ends)
            at_most = sum(good is is_good and ago_s <= WINDOWS_S[window] for ago_s, good in ends)
            assert surely <= counted <= at_most


def test_months_of_minutes_take_bounded_memory() -> None:
    judged = JudgedMinutes()
    for minute in range(0, 90 * 24 * 60, 7):
        judged.add(NOW_S + 60 * minute, is_good=True)
    assert len(judged._minutes) <= 7 * 60 + 1
    assert len(judged._hours) <= 31 * 24 + 1


def test_what_several_counted_is_added_up() -> None:
    one, other = {"m": {"5m": Count(1, 2)}}, {"m": {"5m": Count(3, 4), "1h": Count(5, 6)}, "n": {"5m": Count(1, 0)}}
    assert summed([one, other]) == {"m": {"5m": Count(4, 6), "1h": Count(5, 6)}, "n": {"5m": Count(1, 0)}}
