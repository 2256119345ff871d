"""Exchanges counted by model, deployment and tier: whole numbers that are added to, and read when Prometheus asks.

What is added here is added to once per exchange, on every exchange's way: no labels are looked up and no locks taken.
"""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.telemetry.bounded_names import BoundedNames
from servery.telemetry.judged_minutes import JudgedModels
from servery.telemetry.ledger.row import LedgerRow

NOBODY = "none"  # the deployment and the tier of an exchange for which none was asked
# What exchanges come to.
OUTCOMES = ("completed", "client_gone", "timeout", "shutdown", "refused", "failed")
GOOD = "good"
# Why an exchange missed its model's SLO: the first of these that holds.
MISSED_BY = ("shed", "timeout", "error", "stale", "ttft", "tpot")
_MOST_ERRORS = 64
_PLACE = ("model_name", "deployment", "tier")


class ModelTally:
    """What is counted of one model, whoever answered."""

    __slots__ = ("in_flight", "retries", "shed")

    def __init__(self) -> None:
        self.in_flight = 0
        self.retries = 0
        self.shed = 0


class PlaceTally:
    """What is counted of one model at one deployment. Money is nano-dollars."""

    __slots__ = (
        "cached_tokens", "cost_nanousd", "dearest_nanousd", "errors", "extra_tokens", "generated_tokens", "good", "missed",
        "outcomes", "prompt_tokens", "reasoning_tokens", "unjudged",
    )  # fmt: skip

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.errors: dict[str, int] = {}
        self.missed = dict.fromkeys(MISSED_BY, 0)
        self.good = self.unjudged = 0
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = self.reasoning_tokens = self.extra_tokens = 0
        self.cost_nanousd = self.dearest_nanousd = 0

    @property
    def tokens(self) -> Sequence[tuple[str, int]]:
        """By kind."""
        return (
            ("prompt", self.prompt_tokens),
            ("cached", self.cached_tokens),
            ("generated", self.generated_tokens),
            ("reasoning", self.reasoning_tokens),
            ("extra", self.extra_tokens),
        )


class ExchangeTallies:
    """Every exchange that is over is counted here once, under the model that answered or was to.

    `judged` has those of the past by minute, where no ledger has them.
    """

    def __init__(self) -> None:
        self.judged: JudgedModels | None = None
        self._models: dict[str, ModelTally] = {}
        self._places: dict[tuple[str, str | None, str | None], PlaceTally] = {}
        self._error = BoundedNames(_MOST_ERRORS)

    def model(self, name: str) -> ModelTally:
        """That of a served model."""
        found = self._models.get(name)
        if found is None:
            found = self._models[name] = ModelTally()
        return found

    def expect(self, model: str, deployment: str | None, tier: str | None) -> PlaceTally:
        """Tell of a place from now on, so that what watches sees its counts begin at zero; None: nobody was asked."""
        place = model, deployment, tier
        found = self._places.get(place)
        if found is None:
            found = self._places[place] = PlaceTally()
            self.model(model)
        return found

    def count(self, model: str, row: LedgerRow, verdict: str | None) -> None:
        """Count an exchange that is over: `verdict` is `GOOD`, one of `MISSED_BY`, or None where there was no SLO to keep."""
        tally = self._places.get((model, row.deployment, row.tier))
        if tally is None:
            tally = self.expect(model, row.deployment, row.tier)
        tally.outcomes[row.outcome] += 1
        if row.error is not None:
            _one_more(tally.errors, self._error(row.error))
        tally.prompt_tokens += row.prompt_tokens
        tally.cached_tokens += row.cached_tokens
        tally.generated_tokens += row.generated_tokens
        tally.reasoning_tokens += row.reasoning_tokens
        tally.extra_tokens += row.extra_tokens
        tally.cost_nanousd += row.cost_nanousd
        tally.dearest_nanousd += row.dearest_nanousd
        if verdict is None:
            tally.unjudged += 1
        elif verdict == GOOD:
            tally.good += 1
        else:
            _one_more(tally.missed, verdict)
        if self.judged is not None and verdict is not None:
            self.judged.add(model, row.at_s + row.e2e_s, is_good=verdict == GOOD)

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        yield from self._of_models()
        exchanges = _counter("exchanges", "Exchanges that are over.", "outcome")
        errors = _counter("exchange_errors", "Of these, those that did not end well, by what went wrong.", "error")
        tokens = _counter("exchange_tokens", "Their tokens, as on the bill; cached are part of prompt.", "kind")
        cost = _counter("cost_microusd", "Micro-dollars by the price per token.")
        dearest = _counter("dearest_microusd", "What the answers' tokens cost at the model's dearest deployment.")
        good = _counter("slo_good", "Exchanges that kept their model's SLO.")
        missed = _counter("slo_miss", "Exchanges that missed it.", "why")
        unjudged = _counter("slo_unjudged", "Exchanges of which no SLO speaks.")
        for (model, deployment, tier), tally in self._places.items():
            place = [model, deployment or NOBODY, tier or NOBODY]
            for family, counts in (
                (exchanges, tally.outcomes.items()),
                (errors, tally.errors.items()),
                (tokens, tally.tokens),
                (missed, tally.missed.items()),
            ):
                for label, count in counts:
                    family.add_metric([*place, label], count)
            cost.add_metric(place, tally.cost_nanousd / 1000)
            dearest.add_metric(place, tally.dearest_nanousd / 1000)
            good.add_metric(place, tally.good)
            unjudged.add_metric(place, tally.unjudged)
        yield from (exchanges, errors, tokens, cost, dearest, good, missed, unjudged)

    def _of_models(self) -> Iterable[Metric]:
        in_flight = GaugeMetricFamily(
            "servery_exchanges_in_flight", "Exchanges under way, by the model that was asked.", labels=["model_name"]
        )
        retries = CounterMetricFamily("servery_retries", "Attempts beyond the first.", labels=["model_name"])
        shed = CounterMetricFamily("servery_shed", "Refused because nobody had room for them.", labels=["model_name"])
        for name, tally in self._models.items():
            in_flight.add_metric([name], tally.in_flight)
            retries.add_metric([name], tally.retries)
            shed.add_metric([name], tally.shed)
        yield from (in_flight, retries, shed)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"servery_{name}", text, labels=[*_PLACE, *labels])


def _one_more(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
