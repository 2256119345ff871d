"""What the gateway counts: exchanges and what they came to, attempts, refusals, and how deployments and ledger are now."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.telemetry.deployment_metrics import (
    Attempts,
    DeploymentFigures,
    Deployments,
    PredictionFigures,
    Predictions,
)
from servery.telemetry.exchange_tallies import ExchangeTallies
from servery.telemetry.ledger.figures import LedgerFigures
from servery.telemetry.tallies import Counter


class GatewayMetrics:
    """Labels are bounded: models and deployments are the configured ones, results those of `UpstreamFailure.name`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"servery_{name}", text, labels, registry)

        self.exchanges = ExchangeTallies()
        self.attempts = Attempts()
        self._hedges = counter("hedges", "Attempts beside one that was slow to begin.", "model_name", "result")
        self._refusals = counter("limit_refusals", "Requests over a limit.", "scope", "limit")
        self._store_failures = counter("limit_store_failures", "Times that the store of limits did not answer.")
        self._store = Gauge("servery_limit_store_up", "1: limits are counted where they should be.", registry=registry)
        self._store.set(1)
        self._deployments = Deployments()
        self._predictions = Predictions()
        self._ledger = _LedgerRows()
        for collector in (self.exchanges, self.attempts, self._deployments, self._predictions, self._ledger):
            registry.register(collector)

    def watch(self, read: Callable[[], Sequence[DeploymentFigures]]) -> None:
        """Report the deployments as they are whenever the metrics are read."""
        self._deployments.read = read

    def watch_predictions(self, read: Callable[[], Sequence[PredictionFigures]]) -> None:
        """Report how good predictions were whenever the metrics are read."""
        self._predictions.read = read

    def count_refusal(self, scope: str, measure: str) -> None:
        """Count a request that a limit on `measure` refused, of a "key", an "owner" or a "model"."""
        self._refusals.labels(scope, measure).inc()

    def watch_ledger(self, read: Callable[[], LedgerFigures]) -> None:
        """Report how the ledger is whenever the metrics are read."""
        self._ledger.read = read

    def tell_store(self, *, is_up: bool) -> None:
        """The store of limits answers again, or did not answer."""
        self._store.set(float(is_up))
        if not is_up:
            self._store_failures.labels().inc()

    def count_hedge(self, model: str, result: str) -> None:
        """Count an attempt of a served model beside another one; "abandoned": the other was sooner."""
        self._hedges.labels(model, result).inc()


class _LedgerRows:
    """What became of the ledger's rows."""

    def __init__(self) -> None:
        self.read: Callable[[], LedgerFigures | None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        """As they are; nothing without a ledger."""
        rows = CounterMetricFamily("servery_ledger_rows", "Rows of the ledger.", labels=["result"])
        waiting = GaugeMetricFamily("servery_ledger_rows_waiting", "Rows that are not written yet.")
        failures = CounterMetricFamily("servery_ledger_failures", "Batches that the database did not take.")
        figures = self.read()
        if figures is not None:
            rows.add_metric(["written"], figures.written)
            rows.add_metric(["lost"], figures.lost)
            waiting.add_metric([], figures.waiting)
            failures.add_metric([], figures.failures)
        yield from (rows, waiting, failures)
