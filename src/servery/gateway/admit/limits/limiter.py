"""Limits as the pipeline sees them: an exchange reserves what it may take, and settles what it took."""

from collections.abc import Iterator
from typing import Protocol

from servery.config.types import Kind, Limits, Tier
from servery.gateway.admit.limits.estimate import (
    Prices,
    agreed_bound,
    capped,
    check_sizes,
    completions_of,
    cost_of,
    unasked_bound,
)
from servery.gateway.admit.limits.headers import HeaderNames
from servery.gateway.admit.limits.meter import Cost, LimitStore, Measure, Plan, Verdict, meters
from servery.gateway.admit.limits.refusal import OverLimit, refused
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.prompt_size import input_tokens
from servery.gateway.dispatch.served import Served
from servery.gateway.exchange import Exchange
from servery.gateway.fleet import Fleet
from servery.upstream.ask import Api
from servery.upstream.caller import Caller

# Beyond the time that an exchange may take in all: its lease must not end before it.
_LEASE_MARGIN_S = 30.0
_MOST_TERMS = 100_000
_NO_LIMITS = Limits()


class RefusalCounts(Protocol):
    """Who counts refusals."""

    def count_refusal(self, scope: str, measure: str) -> None:
        """A request was refused by a limit on `measure` of a key, an owner or a model."""


class _Terms:
    """On what terms a caller asks a model: the meters, and the dearest prices that a request can come to."""

    __slots__ = (
        "_reachable",
        "caller",
        "cap_name",
        "default_tokens",
        "fleet",
        "headers",
        "is_own",
        "needs_cap",
        "plan",
        "prices",
    )

    def __init__(self, caller: Caller, served: Served, fleet: Fleet) -> None:
        config = fleet.config
        self.caller = caller
        self.fleet = fleet
        self.plan = Plan(
            [
                *meters("key", caller.key, caller.limits or _NO_LIMITS),
                *meters("owner", caller.owner, config.owners.get(caller.owner, _NO_LIMITS)),
                *meters("model", served.name, served.config.limits),
            ]
        )
        self.headers = HeaderNames(self.plan.meters)
        self._reachable = list(_reachable(served.name, fleet, caller.tiers))
        self.is_own = all(each.is_own for each in self._reachable)
        prices = [
            (max(price.input_per_mtok, price.cached_per_mtok), price.output_per_mtok)
            for price in (each.config.price for each in self._reachable)
        ]
        self.prices = Prices(max((each for each, _ in prices), default=0), max((each for _, each in prices), default=0))
        self.default_tokens = config.limits.default_max_tokens
        measures = {meter.measure for meter in self.plan.meters}
        is_paid = self.prices.output > 0 and not measures.isdisjoint((Measure.DAY, Measure.MONTH))
        self.needs_cap = is_paid or Measure.OUTPUT_TOKENS in measures
        kinds = {each.config.kind for each in served.deployments}
        self.cap_name = "max_completion_tokens" if Kind.OPENAI in kinds else None

    @property
    def context_tokens(self) -> int | None:
        """The longest context that the request can reach; None while one is not known."""
        contexts = [each.upstream.model().max_model_len for each in self._reachable]
        known = [each for each in contexts if each is not None]
        return max(known) if known and len(known) == len(contexts) else None


class Limiter:
    """Admits exchanges whose callers, owners and models have enough left, by what `store` counts."""

    def __init__(self, store: LimitStore, counts: RefusalCounts | None = None) -> None:
        self._store = store
        self._counts = counts
        self._terms: dict[tuple[str, str], _Terms] = {}

    async def admit(self, exchange: Exchange) -> None:
        """Reserve what the exchange may take; raises `ApiError`: 400 for bounds that contradict, 429 at a limit, 503."""
        asked_tokens = agreed_bound(exchange.ask.head)
        terms = self._of(exchange)
        if not terms.plan.meters:
            return
        check_sizes(exchange.ask.head, asked_tokens)
        cost = self._cost(exchange, terms, asked_tokens)
        lease_ms = int(1000 * (exchange.deadline_s - exchange.arrived_s + _LEASE_MARGIN_S))
        verdict = await self._store.reserve(terms.plan, cost, lease_ms)
        exchange.lease = verdict.lease
        exchange.client.headers += (
            terms.headers.anthropic(verdict.used, verdict.at_s)
            if exchange.ask.api is Api.MESSAGES
            else terms.headers.openai(verdict.used)
        )
        if verdict.is_local:
            exchange.client.headers.append(("x-servery-limits", "local"))
        if verdict.lease is None:
            raise self._refusal(terms, cost, verdict)

    async def close(self) -> None:
        """Let go of the store."""
        await self._store.close()

    def _of(self, exchange: Exchange) -> _Terms:
        caller, served = exchange.ask.caller, exchange.model
        key = caller.key, served.config.name
        found = self._terms.get(key)
        if found is None or found.caller is not caller or found.fleet is not exchange.fleet:
            if len(self._terms) >= _MOST_TERMS:
                self._terms.clear()
            found = self._terms[key] = _Terms(caller, served, exchange.fleet)
        return found

    def _cost(self, exchange: Exchange, terms: _Terms, asked_tokens: int | None) -> Cost:
        """The most that the exchange may take; its answer is given a bound where it has none by which it could be told."""
        ask, context = exchange.ask, None
        prompt_tokens, completions = input_tokens(ask), completions_of(ask)
        most_tokens = asked_tokens if completions else 0
        if most_tokens is None:
            context, default_tokens = terms.context_tokens, terms.default_tokens
            default_tokens = default_tokens if context is None else min(default_tokens, context)
            most_tokens = unasked_bound(ask, prompt_tokens, completions, terms.plan, default_tokens, terms.prices)
        # An engine of this process ends with its context, and refuses a bound that goes beyond it.
        is_bounded = terms.is_own and context is not None and context <= most_tokens
        if terms.needs_cap and not is_bounded:
            exchange.ask = capped(ask, most_tokens, terms.cap_name)
            exchange.unbounded = None if exchange.ask is ask else ask
        return cost_of(prompt_tokens, completions * most_tokens, terms.prices)

    def _refusal(self, terms: _Terms, cost: Cost, verdict: Verdict) -> OverLimit:
        """What the client is told of the limits that cannot take a cost, each of which is counted."""
        short = terms.plan.short(cost, verdict.used)
        if self._counts is not None:
            for meter, _ in short:
                self._counts.count_refusal(meter.scope, meter.measure.value)
        return refused(short, cost, verdict.at_s, dict(zip(terms.plan.meters, verdict.reserved, strict=False)))


def settle(exchange: Exchange, microusd: int) -> None:
    """Let an exchange that is over have taken what it took; `microusd` is what its attempts cost, all of them.

    Whoever leaves before a count of the prompt has come pays for the prompt as it was estimated: it is being computed.
    """
    lease = exchange.lease
    if lease is None:
        return
    record, attempts = exchange.record, exchange.attempts
    input_tokens = record.prompt_tokens
    if attempts and attempts[-1].is_abandoned and not input_tokens and record.usage is None:
        input_tokens = lease.cost.input_tokens
    lease.settle(Cost(1, input_tokens, record.generated_tokens, microusd))


def _reachable(model: str, fleet: Fleet, tiers: frozenset[Tier] | None) -> Iterator[Deployment]:
    """All deployments that a request for a model can reach, by fallbacks too."""
    seen, waiting = set(), [model]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in fleet.models:
            continue
        seen.add(name)
        found = fleet.models[name]
        fallbacks = found.config.fallbacks
        waiting += [*fallbacks.error, *fallbacks.context_window, *fallbacks.content_policy]
        yield from (each for each in found.deployments if tiers is None or each.config.tier in tiers)
