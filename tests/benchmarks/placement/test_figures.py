"""Good is what was within the SLO; money is the ledger's bill and the hours of an engine that was there."""

from typing import Any

import pytest

from benchmarks.placement.figures import Tally, figures, together
from benchmarks.placement.fleet import Terms
from benchmarks.placement.replay import Sample
from tests.telemetry.ledger.rows import ROW

TERMS = Terms(ttft_s=0.1, tpot_s=0.01, attainment=0.95, per_hour=3.6, running=8)
SAMPLES = [
    Sample(0.0, 0.05, 0.005, 10, 90),
    Sample(1.0, 0.10, None, 1, 99),
    Sample(2.0, 0.11, 0.005, 10, 90),
    Sample(3.0, 0.05, 0.011, 10, 90),
    Sample(4.0, is_shed=True, error="429"),
]


def of(*, has_own: bool) -> dict[str, Any]:
    rows = [ROW._replace(deployment="api", cost_nanousd=1_000_000), ROW._replace(deployment="own", cost_nanousd=0)]
    return figures(SAMPLES, rows, 10.0, TERMS, Tally(4.0, 0.4, 0.1), has_own=has_own)


def test_what_was_late_slow_or_refused_is_not_good() -> None:
    found = of(has_own=True)
    assert (found["requests"], found["good"], found["shed"], found["failed"]) == (5, 2, 1, 0)
    assert (found["ttft_misses"], found["tpot_misses"], found["api_share"]) == (1, 1, 0.5)
    assert (found["predicted_ms"], found["prediction_error_ms"]) == (pytest.approx(100.0), pytest.approx(25.0))


def test_an_engine_that_is_there_costs_its_hours_and_one_that_is_not_nothing() -> None:
    with_own, without = of(has_own=True), of(has_own=False)
    assert (without["usd"], with_own["usd"]) == (pytest.approx(0.001), pytest.approx(0.011))
    assert with_own["usd_per_million_good_tokens"] == pytest.approx(0.011 / 200 * 1e6)


def test_together_they_are_medians_between_what_they_lie() -> None:
    assert together([{"good": 1, "x": None}, {"good": 3, "x": None}, {"good": 2, "x": None}]) == {
        "good": {"median": 2, "low": 1, "high": 3}
    }
