import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.config.types import Slo
from servery.telemetry.slo import ALERT_RULES, LEAST_MISSES, WINDOWS_S, AlertRule, Count, SloReport, report

SLO = Slo(ttft_s=0.5, tpot_s=0.05, attainment=0.99)


def test_attainment_and_burn_rate_of_a_window() -> None:
    assert Count(990, 10).attainment == 0.99
    assert Count(990, 10).burn_rate(SLO) == pytest.approx(1.0)
    assert Count(0, 7).burn_rate(SLO) == pytest.approx(100.0)
    assert (Count(7, 0).attainment, Count(7, 0).burn_rate(SLO)) == (1.0, 0.0)
    assert (Count().attainment, Count().burn_rate(SLO)) == (None, None)


def test_a_promise_without_exceptions_has_a_budget_of_one_in_a_million() -> None:
    strict = Slo(ttft_s=0.5, tpot_s=0.05, attainment=1.0)
    assert Count(999_999, 1).burn_rate(strict) == pytest.approx(1.0)
    assert report("m", strict, {"30d": Count(10, 0)}).error_budget.remaining == 1.0


def test_the_error_budget_is_what_a_month_of_exchanges_may_miss() -> None:
    told = report("m", SLO, {"30d": Count(9_950, 50)}).error_budget
    assert (told.allowed, told.spent, told.remaining) == (pytest.approx(100.0), 50, pytest.approx(0.5))
    overspent = report("m", SLO, {"30d": Count(900, 100)}).error_budget
    assert overspent.remaining == pytest.approx(-9.0)
    assert report("m", SLO, {}).error_budget.remaining is None


def burning(rate: float) -> Count:
    """A thousand exchanges that burn the budget at `rate`."""
    missed = round(1000 * rate * (1 - SLO.attainment))
    return Count(1000 - missed, missed)


def firing(told: SloReport) -> list[tuple[str, str]]:
    return [(each.severity, each.long) for each in told.alerts if each.is_firing]


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.long)
def test_an_alert_fires_while_its_long_and_its_short_window_burn_and_only_then(rule: AlertRule) -> None:
    high, low = burning(1.2 * rule.threshold), burning(0.8 * rule.threshold)
    both = firing(report("m", SLO, {rule.long: high, rule.short: high}))
    assert (rule.severity, rule.long) in both
    for counts in ({rule.long: high, rule.short: low}, {rule.long: low, rule.short: high}, {rule.long: high}):
        assert (rule.severity, rule.long) not in firing(report("m", SLO, counts))


def test_a_few_misses_of_a_few_exchanges_wake_nobody() -> None:
    few = Count(0, LEAST_MISSES - 1)
    assert firing(report("m", SLO, dict.fromkeys(WINDOWS_S, few))) == []
    assert len(firing(report("m", SLO, dict.fromkeys(WINDOWS_S, Count(0, LEAST_MISSES))))) == len(ALERT_RULES)


def test_every_window_is_told_in_its_order_also_when_nothing_happened() -> None:
    told = report("m", SLO, {"1h": Count(3, 1)})
    assert [each.window for each in told.windows] == ["5m", "30m", "1h", "6h", "3d", "30d"]
    assert msgspec.to_builtins(told.windows[2]) == {
        "window": "1h", "seconds": 3600, "good": 3, "missed": 1, "attainment": 0.75, "burn_rate": pytest.approx(25.0),
    }  # fmt: skip
    assert msgspec.to_builtins(told.windows[0]) == {
        "window": "5m", "seconds": 300, "good": 0, "missed": 0, "attainment": None, "burn_rate": None,
    }  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(list(WINDOWS_S)), st.builds(Count, st.integers(0, 10**9), st.integers(0, 10**9)))
)
def test_what_is_told_can_be_read_as_json(counts: dict[str, Count]) -> None:
    told = report("m", SLO, counts)
    assert msgspec.json.decode(msgspec.json.encode(told), type=SloReport) == msgspec.convert(
        msgspec.to_builtins(told), SloReport
    )
