"""The SLOs of now, with what became of them: read from where exchanges are counted when somebody asks, and told as gauges."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.config.types import Slo
from servery.telemetry.judged_minutes import summed
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.slo import Count, SloReport, report

log = logging.getLogger(__name__)

_FRESH_S = 2.0
_PATIENCE_S = 1.0  # less than workers have for each other's pages

Counts = Mapping[str, Mapping[str, Count]]


class SloPage(msgspec.Struct, frozen=True, kw_only=True):
    """What `/admin/slo` says. `source` is "ledger" or "memory", `at_s` the Unix time when it was read."""

    object: str = "slo"
    at_s: float
    source: str
    models: Sequence[SloReport]


class SloWatch:
    """`objectives` gives the SLOs by model, `read` counts by model as it was served and by window, perhaps slowly.

    `source` is "ledger", or "memory" where nothing but this process counts.
    """

    def __init__(
        self,
        objectives: Callable[[], Mapping[str, Slo]],
        read: Callable[[], Counts],
        source: str,
        *,
        is_told: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """With `is_told` not set the metrics have only the SLOs: another worker tells what became of them."""
        self.source = source
        self._objectives = objectives
        self._read = read
        self._is_told = is_told
        self._clock = clock
        self._wall = wall
        self._counts: Counts = {}
        self._read_s: float | None = None
        self._read_at_s = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._is_failing = False

    async def refresh(self) -> None:
        """Read again what is older than a few seconds; what cannot be had in a moment stays as it is."""
        now = self._clock()
        if self._reading is None or self._reading.done():
            if self._read_s is not None and now - self._read_s < _FRESH_S:
                return
            self._reading = asyncio.create_task(self._read_again(now), name="slo")
        await asyncio.wait((self._reading,), timeout=_PATIENCE_S)

    async def refresh_metrics(self) -> None:
        """Read again what the metrics tell."""
        if self._is_told:
            await self.refresh()

    def page(self, others: Sequence[Counts] = ()) -> SloPage:
        """As of the last reading; with what `others` counted besides."""
        return SloPage(at_s=self._read_at_s, source=self.source, models=self._reports(summed([self._counts, *others])))

    def collect(self) -> Iterable[Metric]:
        """As of the last reading."""
        yield from _terms(self._objectives())
        yield from _gauges(self._reports(self._counts) if self._is_told else ())

    async def _read_again(self, now: float) -> None:
        at_s = self._wall()
        try:
            counts = await asyncio.to_thread(self._read)
        except (LedgerError, DatabaseFailure) as error:
            if not self._is_failing:
                log.warning("what became of the SLOs cannot be read: %s", error)
            self._is_failing = True
        else:
            self._counts, self._read_at_s, self._is_failing = counts, at_s, False
        self._read_s = now

    def _reports(self, counts: Counts) -> list[SloReport]:
        objectives = self._objectives()
        by_model = summed([{_base(served, objectives): windows} for served, windows in counts.items()])
        return [report(model, slo, by_model.get(model, {})) for model, slo in objectives.items()]


def nothing_watched() -> SloWatch:
    """Of a server without SLOs."""
    return SloWatch(dict, dict, "memory")


def _base(served: str, objectives: Mapping[str, Slo]) -> str:
    """The model itself of a served name, which may be an adapter's (`model:adapter`)."""
    return served if served in objectives else served.rpartition(":")[0]


def _terms(objectives: Mapping[str, Slo]) -> Iterable[Metric]:
    ttft = _gauge("slo_ttft_seconds", "The SLO: the most that a first token may take.")
    tpot = _gauge("slo_tpot_seconds", "The SLO: the most that each further token may take, on average.")
    share = _gauge("slo_objective_ratio", "The SLO: the share of exchanges that is to keep both.")
    for model, slo in objectives.items():
        ttft.add_metric([model], slo.ttft_s)
        tpot.add_metric([model], slo.tpot_s)
        share.add_metric([model], slo.attainment)
    yield from (ttft, tpot, share)


def _gauges(reports: Sequence[SloReport]) -> Iterable[Metric]:
    good = _gauge("slo_window_good", "Exchanges of a window that kept the SLO.", "window")
    missed = _gauge("slo_window_missed", "Exchanges of a window that missed it.", "window")
    attained = _gauge("slo_attainment_ratio", "The share that kept it.", "window")
    burn = _gauge("slo_burn_rate", "The share that missed it over the share that may.", "window")
    budget = _gauge("slo_error_budget_remaining_ratio", "What is left of 30 days' budget; below 0 is overspent.")
    alerts = _gauge(
        "slo_alert", "1: the budget burns too fast, in this long window and its short one.", "severity", "window"
    )
    for each in reports:
        for window in each.windows:
            labels = [each.model, window.window]
            good.add_metric(labels, window.good)
            missed.add_metric(labels, window.missed)
            if window.attainment is not None and window.burn_rate is not None:
                attained.add_metric(labels, window.attainment)
                burn.add_metric(labels, window.burn_rate)
        if each.error_budget.remaining is not None:
            budget.add_metric([each.model], each.error_budget.remaining)
        for alert in each.alerts:
            alerts.add_metric([each.model, alert.severity, alert.long], float(alert.is_firing))
    yield from (good, missed, attained, burn, budget, alerts)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"servery_{name}", text, labels=["model_name", *labels])
