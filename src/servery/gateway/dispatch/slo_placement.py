"""The placement by which SLOs decide: each request goes to the cheapest deployment that is predicted to keep its model's."""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from servery.config.types import ModelConfig, Overload, Slo, Tier
from servery.gateway.cost import cost_microusd
from servery.gateway.dispatch.caution import Caution
from servery.gateway.dispatch.cheapest import Option, cheapest_within_slo, keeps
from servery.gateway.dispatch.clearing import clears_s
from servery.gateway.dispatch.deployment import Deployment, Standing
from servery.gateway.dispatch.load import Answering, Load
from servery.gateway.dispatch.outcome import AttemptOutcome
from servery.gateway.dispatch.place import Ranked, Watch
from servery.gateway.dispatch.prediction import LatencyModel, Prediction, Tally
from servery.gateway.dispatch.prefixes import PrefixIndex
from servery.gateway.dispatch.prompt import Prompt, Prompts
from servery.gateway.dispatch.proven import Proven
from servery.gateway.dispatch.trial import Trial
from servery.upstream.ask import Ask
from servery.wire.errors import ApiError, rate_limited

# Until answers have told how long they are; and how much a new one weighs against those before.
_ANSWER_TOKENS = 200.0
_NEWER = 0.05
_SHORTEST_WAIT_S = 0.005
# A provider's fleet has room for one more burst, whether or not it was seen to bear one.
_ELASTIC = (Tier.MANAGED, Tier.API)


class CheapestWithinSlo:
    """Learns how fast each deployment is under which load, and chooses by it."""

    why_alone: str | None = None  # a request may be refused, or wait, for the SLO's sake

    def __init__(self, model: ModelConfig, clock: Callable[[], float]) -> None:
        """Raises `ValueError` for a model without an SLO."""
        if model.slo is None:
            raise ValueError(f"model '{model.name}' is placed by cheapest-within-slo and has no slo; add one")
        self.config = model
        self._slo: Slo = model.slo
        self._clock = clock
        self._prompts = Prompts()
        self._index = PrefixIndex()
        self._loads: defaultdict[str, Load] = defaultdict(Load)
        self._answering: defaultdict[str, Answering] = defaultdict(Answering)
        self._models: dict[str, LatencyModel] = {}
        self._caution = Caution(model.slo.attainment)
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._lengths = _Lengths()
        self._proven: defaultdict[str, Proven] = defaultdict(Proven)
        self._trials: defaultdict[str, Trial] = defaultdict(Trial)
        self._trying: defaultdict[str, int] = defaultdict(int)  # under way that were predicted to be late

    def configured(self, model: ModelConfig) -> "CheapestWithinSlo":
        """The same placement by another configuration with the same SLO: what either learns is known to both."""
        other = copy.copy(self)
        other.config = model
        return other

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """How good the predictions were, by deployment."""
        return self._tallies

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """The cheapest that keeps the SLO first; with a refusal (429) when none does and the model is to shed."""
        prompt, by_name = self._prompts.of(ask), {each.name: each for tier in tiers for each in tier}
        options = [self._option(each, at, ask, prompt) for at, tier in enumerate(tiers) for each in tier]
        decision = cheapest_within_slo(options, self._slo, self.config.overload)
        wait_s = None if decision.wait_s is None else max(decision.wait_s, _SHORTEST_WAIT_S)
        why = "within_slo" if decision.is_within_slo else "beyond_slo"
        refusal = None if decision.shed_s is None else self._refusal(decision.shed_s)
        return Ranked([by_name[name] for name in decision.ranked], wait_s, why, refusal)

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """Counts the request with the deployment's load, and lets its times teach the model of it."""
        prompt = self._prompts.of(ask)
        new_tokens = prompt.new_tokens(self._index.matched(deployment.name, prompt.prefix))
        self._index.add(deployment.name, prompt.prefix)
        return _Lesson(self, deployment.name, new_tokens)

    def _refusal(self, after_s: float) -> ApiError:
        message = (
            f"No deployment of '{self.config.name}' is predicted to answer within its SLO (first token within "
            f"{self._slo.ttft_s:g} s, each further one within {self._slo.tpot_s:g} s); one may be in about {after_s:.1f} s."
        )
        return rate_limited(message, after_s)

    def _option(self, deployment: Deployment, tier: int, ask: Ask, prompt: Prompt) -> Option:
        new_tokens = prompt.new_tokens(self._index.matched(deployment.name, prompt.prefix))
        load = self._loads[deployment.name]
        most = ask.head.most_tokens
        expected = round(self._lengths.tokens)
        answer = expected if most is None else min(most, expected)
        prediction = self._predict(deployment, load, new_tokens)
        has_place = deployment.standing() is Standing.FREE
        is_enough = self.config.overload is Overload.BEST_EFFORT or (has_place and keeps(prediction, self._slo))
        return Option(
            name=deployment.name,
            tier=tier,
            has_place=has_place,
            is_idle=not load.in_flight,
            clears_s=0.0 if is_enough else self._clears_s(deployment, prediction, new_tokens, answer),
            prediction=prediction,
            cost=cost_microusd(deployment.config.price, prompt.tokens, prompt.tokens - new_tokens, answer),
            doublings=0
            if deployment.config.tier in _ELASTIC
            else self._proven[deployment.name].doublings(load.in_flight + 1),
            is_due=self._is_due(deployment.name, load),
        )

    def _is_due(self, name: str, load: Load) -> bool:
        """Whether a deployment may be tried whatever is predicted: with nothing to do now and then, else with a load that it has
        nearly borne while more requests are in time than were promised, which each miss ends for a while.
        """
        if not load.in_flight:
            return self._caution.may_miss and self._trials[name].is_due(self._clock())
        is_calm = not self._caution.value and not self._trying[name]
        return is_calm and not self._proven[name].doublings(load.in_flight + 1)

    def _predict(self, deployment: Deployment, load: Load, new_tokens: int) -> Prediction:
        return self._latency(deployment.name).predict(load, new_tokens, self._clock(), self._caution.value)

    def _clears_s(self, deployment: Deployment, busy: Prediction, new_tokens: int, answer_tokens: int) -> float:
        """After how long the deployment is expected to have a place, and to keep the SLO or to be idle."""
        slots = deployment.slots
        answer_s = slots.held_s or busy.ttft_s + answer_tokens * busy.tpot_s
        found_s = clears_s(busy, self._predict(deployment, Load(), new_tokens), self._slo, answer_s)
        return found_s if slots.is_free else max(found_s, slots.predicted_wait_s or answer_s)

    def _is_in_time(self, outcome: AttemptOutcome) -> bool | None:
        """Whether an attempt kept the SLO, by its end where nobody knows when it began; None of one that was given up."""
        slo = self._slo
        if outcome.ttft_s is not None:
            return outcome.ttft_s <= slo.ttft_s and (outcome.tpot_s is None or outcome.tpot_s <= slo.tpot_s)
        if outcome.is_abandoned:
            return None
        return outcome.failure is None and outcome.took_s <= slo.ttft_s + slo.tpot_s * outcome.tokens

    def _latency(self, name: str) -> LatencyModel:
        if name not in self._models:
            self._models[name] = LatencyModel(self._slo.attainment, self._slo)
        return self._models[name]

    # What a lesson teaches.

    def begin(self, name: str, new_tokens: int) -> tuple[Load, float, bool]:
        """A request was sent; returns the load that it met, the predicted TTFT, and whether it is predicted to be late."""
        load = self._loads[name]
        met = Load(load.prefilling, load.decoding, load.prefill_tokens)
        load.begin(new_tokens)
        prediction = self._latency(name).predict(met, new_tokens, self._clock(), self._caution.value)
        is_trial = not keeps(prediction, self._slo)
        self._trying[name] += is_trial
        return met, prediction.ttft_s, is_trial

    def first_token(self, name: str, new_tokens: int) -> tuple[float, float]:
        """Its first token has come; returns a mark for `end`, and when that was."""
        self._loads[name].first_token(new_tokens)
        now = self._clock()
        return self._answering[name].begin(now), now

    def end(self, name: str, lesson: "_Lesson", outcome: AttemptOutcome) -> None:
        """It is over."""
        model, now, begun = self._latency(name), self._clock(), lesson.begun
        self._trying[name] -= lesson.is_trial
        self._loads[name].end(lesson.new_tokens, had_first_token=begun is not None)
        answering = None if begun is None else self._answering[name].end(*begun, now)
        is_in_time = self._is_in_time(outcome)
        if is_in_time is not None:
            self._proven[name].learn(lesson.met.in_flight + 1, is_in_time=is_in_time)
            if not lesson.met.in_flight:
                self._trials[name].learn(now, is_in_time=is_in_time)
        if outcome.ttft_s is not None:
            model.observe_ttft(lesson.met, lesson.new_tokens, outcome.ttft_s, now)
            self._tallies[name].add(lesson.predicted_s, outcome.ttft_s)
            self._caution.learn(is_in_time=is_in_time is True)
        if outcome.tpot_s is not None and answering is not None:
            model.observe_tpot(lesson.met, answering, outcome.tpot_s, now)
        if outcome.failure is None and not outcome.is_abandoned and outcome.tokens:
            self._lengths.learn(outcome.tokens)


class _Lengths:
    """How many `tokens` answers have, newer ones weighing more."""

    def __init__(self) -> None:
        self.tokens = _ANSWER_TOKENS

    def learn(self, tokens: int) -> None:
        """An answer had so many."""
        self.tokens += _NEWER * (tokens - self.tokens)


class _Lesson(Watch):
    """Follows one attempt; `begun` tells when its first token came, with the mark of that moment."""

    def __init__(self, placement: CheapestWithinSlo, name: str, new_tokens: int) -> None:
        self._placement = placement
        self._name = name
        self.new_tokens = new_tokens
        self.met, self.predicted_s, self.is_trial = placement.begin(name, new_tokens)
        self.begun: tuple[float, float] | None = None

    def first_token(self) -> None:
        """The load moves on from prefill to decode."""
        self.begun = self._placement.first_token(self._name, self.new_tokens)

    def over(self, outcome: AttemptOutcome) -> None:
        """The times are learnt."""
        self._placement.end(self._name, self, outcome)
