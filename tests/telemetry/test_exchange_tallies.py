from collections import Counter

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from servery.telemetry.exchange_tallies import GOOD, MISSED_BY, ExchangeTallies
from servery.telemetry.judged_minutes import JudgedModels
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo import Count
from tests.telemetry.ledger.rows import ROW


def told(tallies: ExchangeTallies) -> dict[str, float]:
    """The samples that are not zero."""
    found: dict[str, float] = {}
    for family in tallies.collect():
        for name, labels, value, *_ in family.samples:
            if value:
                found["|".join([name.removeprefix("servery_"), *labels.values()])] = value
    return found


def test_an_exchange_is_counted_by_model_deployment_and_tier() -> None:
    tallies = ExchangeTallies()
    tallies.count("m", ROW._replace(error=None), GOOD)
    tallies.count("m", ROW._replace(outcome="failed", error="status_503", cost_nanousd=5), "error")
    tallies.count("m", ROW._replace(outcome="refused", error="invalid", deployment=None, tier=None), None)
    tallies.model("m").in_flight += 2
    tallies.model("m").shed += 1
    assert told(tallies) == {
        "exchanges_in_flight|m": 2,
        "shed_total|m": 1,
        "exchanges_total|m|d|api|completed": 1,
        "exchanges_total|m|d|api|failed": 1,
        "exchanges_total|m|none|none|refused": 1,
        "exchange_errors_total|m|d|api|status_503": 1,
        "exchange_errors_total|m|none|none|invalid": 1,
        "exchange_tokens_total|m|d|api|prompt": 6,
        "exchange_tokens_total|m|d|api|cached": 2,
        "exchange_tokens_total|m|d|api|generated": 14,
        "exchange_tokens_total|m|d|api|reasoning": 4,
        "exchange_tokens_total|m|d|api|extra": 8,
        "exchange_tokens_total|m|none|none|prompt": 3,
        "exchange_tokens_total|m|none|none|cached": 1,
        "exchange_tokens_total|m|none|none|generated": 7,
        "exchange_tokens_total|m|none|none|reasoning": 2,
        "exchange_tokens_total|m|none|none|extra": 4,
        "cost_microusd_total|m|d|api": 12.35,
        "cost_microusd_total|m|none|none": 12.345,
        "dearest_microusd_total|m|d|api": 40,
        "dearest_microusd_total|m|none|none": 20,
        "slo_good_total|m|d|api": 1,
        "slo_miss_total|m|d|api|error": 1,
        "slo_unjudged_total|m|none|none": 1,
    }


def test_every_exchange_is_good_missed_or_unjudged_once() -> None:
    tallies = ExchangeTallies()
    verdicts = [GOOD, None, *MISSED_BY] * 3
    for verdict in verdicts:
        tallies.count("m", ROW, verdict)
    counts: Counter[str] = Counter()
    for name, value in told(tallies).items():
        counts[name.partition("|")[0]] += int(value)
    judged = ("slo_good_total", "slo_miss_total", "slo_unjudged_total")
    assert {name: counts[name] for name in judged} == dict(zip(judged, (3, 18, 3), strict=True))
    assert sum(counts[name] for name in judged) == counts["exchanges_total"] == len(verdicts)


def test_many_small_sums_lose_nothing() -> None:
    tallies = ExchangeTallies()
    for _ in range(10_000):
        tallies.count("m", ROW._replace(cost_nanousd=1), None)
    assert told(tallies)["cost_microusd_total|m|d|api"] == 10


def test_errors_that_others_name_make_no_series_without_end() -> None:
    metrics = Metrics()
    for at in range(1_000):
        metrics.gateway.exchanges.count("m", ROW._replace(outcome="failed", error=f"code_{at}"), "error")
        metrics.gateway.attempts.count("d", "api", f"status_{at}")
    families = {each.name: each for each in text_string_to_metric_families(metrics.render().decode())}
    assert len(values(families["servery_exchange_errors"])) == len(values(families["servery_attempts"])) == 65
    assert sum(values(families["servery_exchange_errors"])) == sum(values(families["servery_attempts"])) == 1_000


def values(family: Metric) -> list[float]:
    return [sample.value for sample in family.samples]


def test_a_page_without_exchanges_names_every_metric() -> None:
    registry = CollectorRegistry()
    registry.register(ExchangeTallies())
    assert {each.name for each in registry.collect()} == {
        f"servery_{name}"
        for name in (
            "exchanges_in_flight", "retries", "shed", "exchanges", "exchange_errors", "exchange_tokens", "cost_microusd",
            "dearest_microusd", "slo_good", "slo_miss", "slo_unjudged",
        )
    }  # fmt: skip


def test_a_place_that_is_expected_is_told_at_zero_before_anything_happens() -> None:
    tallies = ExchangeTallies()
    tallies.expect("m", "d", "api")
    tallies.expect("m", None, None)
    samples = [sample for family in tallies.collect() for sample in family.samples]
    assert {sample.value for sample in samples} == {0}
    places = {(each.labels.get("deployment"), each.labels.get("tier")) for each in samples}
    assert places == {("d", "api"), ("none", "none"), (None, None)}
    whys = {each.labels["why"] for each in samples if each.name == "servery_slo_miss_total"}
    assert whys == set(MISSED_BY)


def test_where_no_ledger_has_them_judged_exchanges_are_kept_by_minute() -> None:
    tallies = ExchangeTallies()
    tallies.judged = JudgedModels()
    for verdict in (GOOD, "ttft", None):
        tallies.count("m", ROW._replace(at_s=1_000_000.0, e2e_s=30.0), verdict)
    assert tallies.judged.counts(1_000_060.0)["m"]["5m"] == Count(1, 1)
