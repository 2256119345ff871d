"""What the gateway counts: exchanges by outcome, attempts by deployment, money, and how deployments are now."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.telemetry.ledger.figures import LedgerFigures
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.tallies import Counter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFigures:
    """One deployment now. `breaker` is "closed", "open" or "half_open"; `throttled_s` how long it is to be left alone."""

    name: str
    tier: str
    in_flight: int
    waiting: int
    breaker: str
    throttled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFigures:
    """How good the predictions of TTFT were, of a model at a deployment: their number, sums of seconds."""

    model: str
    deployment: str
    predictions: int
    actual_s: float
    error_s: float


class GatewayMetrics:
    """Labels are bounded: models and deployments are the configured ones, results those of `UpstreamFailure.name`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"servery_{name}", text, labels, registry)

        self._exchanges = counter("exchanges", "Exchanges that are over.", "model_name", "outcome")
        self._attempts = counter("attempts", "Requests sent to deployments.", "deployment", "result")
        self._retries = counter("retries", "Attempts beyond the first.", "model_name")
        self._hedges = counter("hedges", "Attempts beside one that was slow to begin.", "model_name", "result")
        self._misses = counter("slo_misses", "Exchanges that missed their model's SLO.", "model_name")
        self._met = counter("slo_met", "Exchanges that met it.", "model_name")
        self._cost = counter("cost_microusd", "Micro-dollars by the price per token.", "model_name", "deployment")
        self._refusals = counter("limit_refusals", "Requests over a limit.", "scope", "limit")
        self._store_failures = counter("limit_store_failures", "Times that the store of limits did not answer.")
        self._store = Gauge("servery_limit_store_up", "1: limits are counted where they should be.", registry=registry)
        self._store.set(1)
        self._deployments = _Deployments()
        registry.register(self._deployments)
        self._predictions = _Predictions()
        registry.register(self._predictions)
        self._ledger = _LedgerRows()
        registry.register(self._ledger)

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

    def count(self, model: str, row: LedgerRow, attempts: Sequence[tuple[str, str]]) -> None:
        """Count an exchange of a served model that is over, and its attempts: at which deployment, with what result."""
        self._exchanges.labels(model, row.outcome).inc()
        for deployment, result in attempts:
            self._attempts.labels(deployment, result).inc()
        if len(attempts) > 1:
            self._retries.labels(model).inc(len(attempts) - 1)
        if row.is_slo_met is not None:
            (self._met if row.is_slo_met else self._misses).labels(model).inc()
        if row.cost_nanousd and row.deployment is not None:
            self._cost.labels(model, row.deployment).inc(row.cost_nanousd / 1000)

    def count_hedge(self, model: str, result: str) -> None:
        """Count an attempt of a served model beside another one; "abandoned": the other was sooner."""
        self._hedges.labels(model, result).inc()


class _Deployments:
    """Gauges of all deployments."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[DeploymentFigures]] = lambda: ()

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        figures = self.read()
        in_flight = GaugeMetricFamily("servery_deployment_requests", "Requests there.", labels=["deployment", "state"])
        broken = GaugeMetricFamily(
            "servery_deployment_breaker_open", "1: nothing is sent there.", labels=["deployment"]
        )
        throttled = GaugeMetricFamily(
            "servery_deployment_throttled_seconds", "How long it is to be left alone.", labels=["deployment"]
        )
        for each in figures:
            in_flight.add_metric([each.name, "running"], each.in_flight)
            in_flight.add_metric([each.name, "waiting"], each.waiting)
            broken.add_metric([each.name], float(each.breaker != "closed"))
            throttled.add_metric([each.name], each.throttled_s)
        yield from (in_flight, broken, throttled)


class _Predictions:
    """Counters of what was predicted."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[PredictionFigures]] = lambda: ()

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        labels = ("model_name", "deployment")
        number = CounterMetricFamily("servery_ttft_predictions", "First tokens that were predicted.", labels=labels)
        actual = CounterMetricFamily("servery_ttft_predicted_actual_seconds", "The sum of what came.", labels=labels)
        error = CounterMetricFamily("servery_ttft_prediction_error_seconds", "Sum of absolute errors.", labels=labels)
        for each in self.read():
            number.add_metric([each.model, each.deployment], each.predictions)
            actual.add_metric([each.model, each.deployment], each.actual_s)
            error.add_metric([each.model, each.deployment], each.error_s)
        yield from (number, actual, error)


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
