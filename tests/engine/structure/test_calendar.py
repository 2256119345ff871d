"""A form that asks for a date or a time lets through those that exist, and all of them."""

import json
import re
from datetime import date, timedelta
from typing import Any

import pytest

from servery.engine import constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.calendar import with_calendar
from servery.engine.structure.grammar import check_constraint
from tests.engine.structure.test_grammar import accepts


def is_let_through(form: str, text: str, **more: Any) -> bool:
    return accepts(constraint.json_schema({"type": "string", "format": form, **more}), json.dumps(text))


def pattern(form: str) -> re.Pattern[str]:
    [added] = with_calendar({"format": form})["allOf"]
    return re.compile(added["pattern"])


def test_the_pattern_of_dates_is_the_calendar() -> None:
    """Every day of 800 years that Python knows, and no other day of a month up to the 39th."""
    dates = pattern("date")
    for year in (1, 4, 100, 400, 1899, 1900, 1999, 2000, 2023, 2024, 2100, 9999):
        first, days = date(year, 1, 1), (366 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 365)
        real = {(first + timedelta(days=n)).isoformat() for n in range(days)}
        written = {f"{year:04}-{month:02}-{day:02}" for month in range(20) for day in range(40)}
        assert {text for text in written if dates.fullmatch(text)} == real


@pytest.mark.parametrize(
    ("form", "text", "is_real"),
    [
        ("date", "2024-02-29", True),
        ("date", "2021-02-29", False),
        ("date", "2100-02-29", False),
        ("date", "0000-01-01", False),
        ("date-time", "2024-02-29T12:00:00Z", True),
        ("date-time", "2021-02-29T12:21:20.32-21:20", False),
        ("time", "23:59:60Z", True),
        ("time", "12:30:60Z", False),
        ("time", "12:30:59.25+01:00", True),
        ("time", "24:00:00Z", False),
    ],
)
def test_what_does_not_exist_is_not_let_through(form: str, text: str, is_real: bool) -> None:
    assert is_let_through(form, text) is is_real


def test_a_form_that_only_an_impossible_date_fits_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check_constraint(constraint.json_schema({"type": "string", "format": "date", "pattern": "^2021-02-29$"}))


def test_other_keywords_still_hold_beside_a_date() -> None:
    assert is_let_through("date", "2024-05-01", allOf=[{"pattern": "^2024"}])
    assert not is_let_through("date", "2023-05-01", allOf=[{"pattern": "^2024"}])
    assert accepts(constraint.json_schema({"type": ["string", "integer"], "format": "date"}), "5")
