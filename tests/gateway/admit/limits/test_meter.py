"""What is counted: days, months, and how long a bucket takes to leak."""

import datetime

import pytest

from servery.config.types import Limits
from servery.gateway.admit.limits.meter import (
    UNIT,
    Cost,
    Measure,
    Meter,
    Plan,
    day_of,
    meters,
    month_begins,
    month_of,
)


def test_days_and_months_are_those_of_the_calendar() -> None:
    for day in range(0, 60_000, 1):
        date = datetime.date(1970, 1, 1) + datetime.timedelta(day)
        month = 12 * date.year + date.month - 1
        assert month_of(day) == month
        if date.day == 1:
            assert month_begins(month) == day
    assert [day_of(86_399), day_of(86_400)] == [0, 1]


def test_each_limit_is_a_meter() -> None:
    limits = Limits(
        requests_per_minute=600, input_tokens_per_minute=1, output_tokens_per_minute=7, concurrency=2,
        microusd_per_day=3, microusd_per_month=4, burst_s=6.0,
    )  # fmt: skip
    assert meters("key", "a", limits) == [
        Meter("key", "a", Measure.REQUESTS, 600, 60 * UNIT, 600),
        Meter("key", "a", Measure.INPUT_TOKENS, 1, UNIT, 1),
        Meter("key", "a", Measure.OUTPUT_TOKENS, 7, UNIT, 7),
        Meter("key", "a", Measure.CONCURRENCY, 2, 2, 0),
        Meter("key", "a", Measure.DAY, 3, 3, 0),
        Meter("key", "a", Measure.MONTH, 4, 4, 0),
    ]
    assert meters("key", "a", Limits()) == []


@pytest.mark.parametrize(
    ("used", "amount", "wait_ms"),
    [(0, 60, 0), (60 * UNIT, 1, 100), (60 * UNIT - 1, 1, 100), (59 * UNIT + 1, 1, 1), (90 * UNIT, 60, 9000), (0, 61, None)],
)  # fmt: skip
def test_a_bucket_says_to_the_millisecond_when_it_takes_more(used: int, amount: int, wait_ms: int | None) -> None:
    meter = Meter("key", "a", Measure.REQUESTS, 600, 60 * UNIT, 600)
    assert meter.wait_ms(used, amount * UNIT) == wait_ms


def test_a_request_is_short_of_what_it_takes_alone() -> None:
    plan = Plan(meters("key", "a", Limits(requests_per_minute=1, output_tokens_per_minute=1, microusd_per_day=1)))
    requests, output, day = plan.meters
    assert plan.short(Cost(1, 5, 0, 0), [UNIT, 9 * UNIT, 9]) == [(requests, UNIT)]
    assert plan.short(Cost(1, 5, 1, 1), [0, UNIT, 1]) == [(output, UNIT), (day, 1)]
