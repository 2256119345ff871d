"""What is told of deployments: how each is now, what became of the requests that it was sent, and how well it was predicted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.telemetry.bounded_names import BoundedNames

BREAKER_STATES = ("closed", "open", "half_open")
_MOST_RESULTS = 64
_PLACE = ("deployment", "tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFigures:
    """One deployment now. `breaker` is of `BREAKER_STATES`; `opened` how often it has opened.

    `throttled_s` is how long it is to be left alone; `is_missed` whether it should take requests, and does not.
    """

    name: str
    tier: str
    in_flight: int
    waiting: int
    breaker: str
    opened: int
    throttled_s: float
    is_missed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFigures:
    """How good the predictions of TTFT were, of a model at a deployment: their number, sums of seconds."""

    model: str
    deployment: str
    predictions: int
    predicted_s: float
    actual_s: float
    error_s: float


class Attempts:
    """Requests sent to deployments, by what they came to."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}
        self._result = BoundedNames(_MOST_RESULTS)

    def count(self, deployment: str, tier: str, result: str) -> None:
        """One is over."""
        counts, key = self._counts, (deployment, tier, result)
        if key not in counts:
            key = deployment, tier, self._result(result)
            counts.setdefault(key, 0)
        counts[key] += 1

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        family = CounterMetricFamily("servery_attempts", "Requests sent to deployments.", labels=[*_PLACE, "result"])
        for key, count in self._counts.items():
            family.add_metric(key, count)
        yield family


class Deployments:
    """Gauges of all deployments."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[DeploymentFigures]] = lambda: ()

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        requests = _gauge("requests", "Requests there.", "state")
        broken = _gauge("breaker_open", "1: nothing is sent there.")
        states = _gauge("breaker_state", "1 for the state that its breaker is in.", "state")
        opened = CounterMetricFamily("servery_deployment_breaker_opened", "Times that it opened.", labels=_PLACE)
        throttled = _gauge("throttled_seconds", "How long it is to be left alone.")
        unready = _gauge("unready", "1: it takes no requests, though it should.")
        for each in self.read():
            place = [each.name, each.tier]
            requests.add_metric([*place, "running"], each.in_flight)
            requests.add_metric([*place, "waiting"], each.waiting)
            broken.add_metric(place, float(each.breaker != "closed"))
            for state in BREAKER_STATES:
                states.add_metric([*place, state], float(state == each.breaker))
            opened.add_metric(place, each.opened)
            throttled.add_metric(place, each.throttled_s)
            unready.add_metric(place, float(each.is_missed))
        yield from (requests, broken, states, opened, throttled, unready)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"servery_deployment_{name}", text, labels=[*_PLACE, *labels])


class Predictions:
    """Counters of what was predicted."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[PredictionFigures]] = lambda: ()

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        number = _prediction("ttft_predictions", "First tokens that were predicted.")
        predicted = _prediction("ttft_predicted_seconds", "The sum of what was predicted.")
        actual = _prediction("ttft_predicted_actual_seconds", "The sum of what came.")
        error = _prediction("ttft_prediction_error_seconds", "Sum of absolute errors.")
        for each in self.read():
            place = [each.model, each.deployment]
            number.add_metric(place, each.predictions)
            predicted.add_metric(place, each.predicted_s)
            actual.add_metric(place, each.actual_s)
            error.add_metric(place, each.error_s)
        yield from (number, predicted, actual, error)


def _prediction(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"servery_{name}", text, labels=["model_name", "deployment"])
