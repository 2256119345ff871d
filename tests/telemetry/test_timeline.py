import math

import pytest

from servery.telemetry.settled import SettledRows
from servery.telemetry.timeline import Point, Timeline, Times, times_of
from tests.telemetry.ledger.rows import ROW

BASE = ROW._replace(at_s=1000.0, e2e_s=1.0, ttft_s=0.5, tpot_s=0.01, outcome="completed", error=None)


@pytest.mark.parametrize("size", [1, 2, 3, 19, 20, 21, 99, 100, 101, 1000])
def test_a_percentile_is_the_value_of_its_nearest_rank(size: int) -> None:
    values = [float(each) for each in range(1, size + 1)]
    expected = [1000 * values[math.ceil(q * size / 100) - 1] for q in (50, 95, 99)]
    assert list(times_of(values)) == expected


def test_an_exchange_belongs_to_the_moment_at_which_it_was_over_and_goes_when_that_is_too_old() -> None:
    timeline = Timeline(2.0, 10)
    timeline.turn(1010.0)
    timeline.add(BASE._replace(prompt_tokens=7, cached_tokens=3, generated_tokens=5, cost_nanousd=11, is_slo_met=True))
    timeline.add(BASE._replace(outcome="failed", error="reset", ttft_s=None, tpot_s=None, is_slo_met=False, e2e_s=1.9))
    timeline.add(BASE._replace(at_s=900.0))
    [point] = timeline.points()
    cost = 11 + BASE.cost_nanousd
    tokens = (7 + BASE.prompt_tokens, 3 + BASE.cached_tokens, 5 + BASE.generated_tokens)
    assert point == Point(1000.0, 2, 1, 1, 1, *tokens, cost, Times(500, 500, 500), Times(10, 10, 10))
    assert timeline.points(last=3) == []
    assert timeline.summary().errors == {"reset": 1}
    timeline.turn(1019.0)
    assert len(timeline.points()) == 1
    timeline.turn(1020.0)
    assert (timeline.points(), timeline.summary().total.exchanges) == ([], 0)


def test_of_settled_rows_the_newest_are_kept_and_each_reader_goes_on_where_it_was() -> None:
    rows = SettledRows(size=3)
    first, at = rows.since(0)
    rows.take([BASE._replace(id=str(number)) for number in range(2)])
    second, then = rows.since(at)
    rows.take([BASE._replace(id=str(number)) for number in range(2, 6)])
    third, end = rows.since(then)
    assert [[row.id for row in each] for each in (first, second, third)] == [[], ["0", "1"], ["3", "4", "5"]]
    assert (at, then, end, rows.since(end)) == (0, 2, 6, ([], 6))
