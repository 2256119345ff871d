import asyncio
import logging

import pytest

from servery.config.types import Slo
from servery.telemetry.ledger.errors import LedgerError
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo import WINDOWS_S, Count
from servery.telemetry.slo_watch import Counts, SloWatch
from tests.telemetry.test_metrics import rendered

SLO = Slo(ttft_s=0.5, tpot_s=0.05, attainment=0.9)


class Source:
    """Counts that a test sets, and how often they were read."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.reads = 0
        self.error: Exception | None = None
        self.now = 100.0

    def read(self) -> Counts:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.counts

    def watch(self, *, is_told: bool = True) -> SloWatch:
        return SloWatch(
            lambda: {"m": SLO},
            self.read,
            "ledger",
            is_told=is_told,
            clock=lambda: self.now,
            wall=lambda: self.now + 1000,
        )


def everywhere(count: Count) -> dict[str, Count]:
    return dict.fromkeys(WINDOWS_S, count)


def test_an_adapter_counts_with_its_base_and_models_without_an_slo_not_at_all() -> None:
    async def story() -> None:
        watch = Source(
            {"m": everywhere(Count(8, 1)), "m:sql": everywhere(Count(1, 0)), "n": everywhere(Count(5, 5))}
        ).watch()
        await watch.refresh()
        page = watch.page()
        assert (page.at_s, page.source, [each.model for each in page.models]) == (1100.0, "ledger", ["m"])
        assert {(each.good, each.missed) for each in page.models[0].windows} == {(9, 1)}

    asyncio.run(story())


def test_what_is_a_few_seconds_old_is_not_read_again() -> None:
    async def story() -> None:
        source = Source({})
        watch = source.watch()
        await watch.refresh()
        source.now += 1.9
        await asyncio.gather(watch.refresh(), watch.refresh())
        assert source.reads == 1
        source.now += 0.1
        await asyncio.gather(watch.refresh(), watch.refresh())
        assert source.reads == 2

    asyncio.run(story())


def test_what_cannot_be_read_stays_as_it_was_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        source = Source({"m": everywhere(Count(9, 1))})
        watch = source.watch()
        await watch.refresh()
        source.error = LedgerError("there is no ledger.")
        source.now += 60
        with caplog.at_level(logging.WARNING):
            await watch.refresh()
            source.now += 60
            await watch.refresh()
        assert watch.page().at_s == 1100.0
        assert watch.page().models[0].windows[0].good == 9
        assert caplog.messages == ["what became of the SLOs cannot be read: there is no ledger."]

    asyncio.run(story())


def test_the_metrics_tell_what_the_page_does() -> None:
    async def story() -> None:
        metrics, source = Metrics(), Source({"m": {**everywhere(Count(90, 30)), "5m": Count()}})
        watch = source.watch()
        metrics.watch_slo(watch)
        await watch.refresh()
        shown = {
            name.replace("servery_slo_", ""): value for name, value in rendered(metrics).items() if "_slo_" in name
        }
        model = 'model_name="m"'
        assert shown == {
            f"ttft_seconds{{{model}}}": 0.5,
            f"tpot_seconds{{{model}}}": 0.05,
            f"objective_ratio{{{model}}}": 0.9,
            f"error_budget_remaining_ratio{{{model}}}": pytest.approx(-1.5),
            **{f'window_good{{{model},window="{name}"}}': 0 if name == "5m" else 90 for name in WINDOWS_S},
            **{f'window_missed{{{model},window="{name}"}}': 0 if name == "5m" else 30 for name in WINDOWS_S},
            **{f'attainment_ratio{{{model},window="{name}"}}': 0.75 for name in WINDOWS_S if name != "5m"},
            **{f'burn_rate{{{model},window="{name}"}}': pytest.approx(2.5) for name in WINDOWS_S if name != "5m"},
            f'alert{{{model},severity="page",window="1h"}}': 0,
            f'alert{{{model},severity="page",window="6h"}}': 0,
            f'alert{{{model},severity="ticket",window="3d"}}': 1,
        }

    asyncio.run(story())


def test_a_worker_that_is_not_to_tell_shows_the_promise_alone() -> None:
    async def story() -> None:
        metrics = Metrics()
        source = Source({"m": everywhere(Count(9, 1))})
        watch = source.watch(is_told=False)
        metrics.watch_slo(watch)
        await watch.refresh_metrics()
        assert source.reads == 0
        await watch.refresh()
        assert {name for name in rendered(metrics) if "_slo_" in name} == {
            f'servery_slo_{name}{{model_name="m"}}' for name in ("ttft_seconds", "tpot_seconds", "objective_ratio")
        }
        assert watch.page().models[0].windows[0].good == 9

    asyncio.run(story())
