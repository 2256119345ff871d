"""How long a deployment would take for a request: an online model of TTFT and TPOT.

TTFT grows with the prompt's own tokens that no cache has, with those that wait before it, and with the requests under way:
a line with knees, because beyond what an engine runs at once each further request waits for another one's end. TPOT grows
with the number of answers that share each step. The weights are learnt from each exchange's own times. A prediction is
judged against an SLO by an upper value, not by its mean: the learnt quantile of actual over predicted.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from servery.config.types import Slo
from servery.gateway.dispatch.load import Load
from servery.gateway.dispatch.regression import Regression

# Before anything is known: a fast server. An optimist tries every deployment, and learns; a pessimist never does.
_KNEES = (4, 8, 16, 32, 64)  # requests under way
# Seconds: always, per token, per token ahead, per request under way, and more beyond each knee.
_TTFT_PRIOR = (0.05, 20e-6, 20e-6, 0.2e-3, *(0.0 for _ in _KNEES))
_TTFT_SCALES = (1.0, 1_000.0, 4_000.0, 16.0, *(16.0 for _ in _KNEES))
_TPOT_PRIOR = (0.005, 0.1e-3)
_TPOT_SCALES = (1.0, 16.0)
# What was learnt is believed half as much after this time without a new observation, so that a deployment which was slow
# once is tried again.
_HALF_LIFE_S = 30.0
_PRIOR_OF_SLO = 0.5
# An answer from an idle deployment in less than half of the predicted time weighs as so many.
_CONTRADICTED = 3
_QUANTILE_STEP = 0.03
_MOST_MARGIN = math.log(10.0)
_BANDS_PER_OCTAVE = 2
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds to the first token and per further one: expected, and with the margin that covers most requests."""

    ttft_s: float
    tpot_s: float
    ttft_upper_s: float
    tpot_upper_s: float


@dataclass(slots=True)
class Tally:
    """How good predictions of the first token were: their number, and sums in seconds: predicted, come, error."""

    predictions: int = 0
    predicted_s: float = 0.0
    actual_s: float = 0.0
    error_s: float = 0.0

    def add(self, predicted_s: float, actual_s: float) -> None:
        """Count one."""
        self.predictions += 1
        self.predicted_s += predicted_s
        self.actual_s += actual_s
        self.error_s += abs(predicted_s - actual_s)


class Margin:
    """The `quantile` of actual over predicted, learnt one observation at a time.

    Stochastic approximation of a quantile (Robbins and Monro 1951) on the logarithm of the ratio, where a step up weighs
    `quantile` and a step down the rest.
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._log = 0.0

    @property
    def factor(self) -> float:
        """By what a prediction is multiplied to be kept by `quantile` of the requests; from 1 to 10."""
        return math.exp(self._log)

    def observe(self, predicted: float, actual: float) -> None:
        """Learn from one pair."""
        is_above = actual > predicted * self.factor
        step = _QUANTILE_STEP * (self._quantile if is_above else self._quantile - 1.0)
        self._log = min(max(self._log + step, 0.0), _MOST_MARGIN)


class Margins:
    """A margin for each size of prediction, two to an octave: short times vary more, as a share of themselves, than long ones.

    A size that was never predicted has the margin of all until it has one of its own.
    """

    def __init__(self, quantile: float) -> None:
        self._of_all = Margin(quantile)
        self._by_size: dict[int, Margin] = {}

    def factor(self, predicted_s: float) -> float:
        """By what a prediction of this size is multiplied."""
        return self._by_size.get(_size(predicted_s), self._of_all).factor

    def observe(self, predicted_s: float, actual_s: float) -> None:
        """Learn from one pair."""
        size = _size(predicted_s)
        if size not in self._by_size:
            self._by_size[size] = copy.copy(self._of_all)
        self._by_size[size].observe(predicted_s, actual_s)
        self._of_all.observe(predicted_s, actual_s)


def _size(predicted_s: float) -> int:
    return math.floor(_BANDS_PER_OCTAVE * math.log2(max(predicted_s, _SHORTEST_S)))


class LatencyModel:
    """One deployment's times. `attainment` is the share of requests that the upper values are to cover.

    With an `slo` tighter than what is usual a server is taken to be so fast, until it has answered, that it keeps it alone.
    """

    def __init__(self, attainment: float = 0.99, slo: Slo | None = None) -> None:
        ttft, tpot = (1.0, 1.0) if slo is None else (_PRIOR_OF_SLO * slo.ttft_s, _PRIOR_OF_SLO * slo.tpot_s)
        self._ttft = Regression(_at_most(_TTFT_PRIOR, ttft / _TTFT_PRIOR[0]), _TTFT_SCALES)
        self._tpot = Regression(_at_most(_TPOT_PRIOR, tpot / sum(_TPOT_PRIOR)), _TPOT_SCALES)
        self._ttft_margins = Margins(attainment)
        self._tpot_margins = Margins(attainment)
        self._observed_s: float | None = None

    def predict(self, load: Load, new_tokens: int, now_s: float, caution: float = 1.0) -> Prediction:
        """The times of a request with `new_tokens` prompt tokens to compute, if it were sent there now.

        Of the margins so much is taken as `caution` says: all with 1, nothing with 0.
        """
        waiting, answering = _features(load, new_tokens)
        belief = self._belief(now_s)
        ttft_s = _believed(self._ttft, waiting, belief)
        tpot_s = _believed(self._tpot, answering, belief)
        return Prediction(
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            ttft_upper_s=ttft_s * self._ttft_margins.factor(ttft_s) ** (belief * caution),
            tpot_upper_s=tpot_s * self._tpot_margins.factor(tpot_s) ** (belief * caution),
        )

    def observe_ttft(self, at_start: Load, new_tokens: int, ttft_s: float, now_s: float) -> None:
        """Learn when the first token came of a request that met the load `at_start`."""
        features, _ = _features(at_start, new_tokens)
        predicted_s = self._ttft.predict(features)
        self._ttft_margins.observe(predicted_s, ttft_s)
        for _ in range(_weight(at_start, predicted_s, ttft_s)):
            self._ttft.observe(features, ttft_s)
        self._observed_s = now_s

    def observe_tpot(self, at_start: Load, answering: float, tpot_s: float, now_s: float) -> None:
        """Learn how fast the further tokens came of a request that met the load `at_start`.

        `answering` is how many answers were under way on average meanwhile: the time follows from that, but what can be
        predicted is what follows from the start.
        """
        _, features = _features(at_start, 0)
        predicted_s = self._tpot.predict(features)
        self._tpot_margins.observe(predicted_s, tpot_s)
        for _ in range(_weight(at_start, predicted_s, tpot_s)):
            self._tpot.observe((1.0, answering), tpot_s)
        self._observed_s = now_s

    def _belief(self, now_s: float) -> float:
        if self._observed_s is None:
            return 1.0
        return math.exp2(-max(now_s - self._observed_s, 0.0) / _HALF_LIFE_S)


def _weight(at_start: Load, predicted_s: float, actual_s: float) -> int:
    """How often an observation counts: what a deployment can do that has nothing else to do is hardly chance."""
    return _CONTRADICTED if not at_start.in_flight and predicted_s > 2.0 * actual_s else 1


def _at_most(prior: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(weight * min(factor, 1.0) for weight in prior)


def _features(load: Load, new_tokens: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    requests = float(load.in_flight)
    beyond = [max(0.0, requests - knee) for knee in _KNEES]
    return (1.0, float(new_tokens), float(load.prefill_tokens), requests, *beyond), (1.0, requests + 1.0)


def _believed(model: Regression, features: tuple[float, ...], belief: float) -> float:
    """The model's prediction, drawn towards the prior's where that is lower and the last observation old."""
    learnt, prior = model.predict(features), model.predict_prior(features)
    return belief * learnt + (1.0 - belief) * min(learnt, prior)
