"""An exchange that is over, as its row in the ledger. Pure."""

from collections.abc import Sequence

from servery.gateway.cost import cost_picousd, nanousd
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.exchange import Exchange, Outcome
from servery.gateway.settle.route import route_of
from servery.gateway.settle.used import Used, answered, total, used
from servery.telemetry.exchange_tallies import GOOD
from servery.telemetry.ledger.row import LedgerRow

_NAME_CHARS = 200  # of a model's name, which clients may choose where an alias takes them all


def row_of(
    exchange: Exchange,
    outcome: Outcome,
    error: str | None,
    status: int | None,
    verdict: str | None,
    *,
    at_s: float,
    e2e_s: float,
) -> LedgerRow:
    """The row; `at_s` is Unix time of the arrival, `status` what the client was told, None if it was told nothing.

    `verdict` is that of its SLO.
    """
    record, ask, attempts = exchange.record, exchange.ask, exchange.attempts
    place = attempts[-1].deployment if attempts and exchange.cache is None else None
    if place is not None and len(attempts) == 1:
        answer = used(attempts[0])
        cost, extra_tokens, is_estimated = _cost(place, answer), 0, answer.is_estimated
        is_only_price = not exchange.is_turned and exchange.model.only_price is place.config.price
        dearest = cost if is_only_price else _dearest_picousd(exchange, answer)
    else:
        parts = [used(attempt) for attempt in attempts]
        cost = sum(_cost(each.deployment, part) for each, part in zip(attempts, parts, strict=True))
        answer, extra_tokens, is_estimated = _counts(exchange, parts)
        dearest = _dearest_picousd(exchange, answer)
    return LedgerRow(  # in their order: by name it takes four times as long
        ask.answer_id,
        exchange.request_id,
        at_s,
        ask.api.word,
        ask.caller.key,
        ask.caller.owner or None,
        exchange.task,
        ask.head.model[:_NAME_CHARS],
        ask.model[:_NAME_CHARS],
        None if place is None else place.name,
        None if place is None else place.tier,
        ask.is_stream,
        answer.prompt_tokens,
        answer.cached_tokens,
        answer.generated_tokens,
        answer.reasoning_tokens,
        extra_tokens,
        is_estimated or record.is_estimated,
        exchange.waited_s + record.queued_s,
        record.timing.ttft_s,
        None if record.timing.ttft_s is None else record.tpot_s,
        e2e_s,
        None if verdict is None else verdict == GOOD,
        nanousd(cost),
        nanousd(dearest),
        exchange.cache or ("prefix" if answer.cached_tokens else None),
        route_of(exchange),
        len(attempts),
        outcome.word,
        status,
        error,
        exchange.fleet.config.generation,
    )


def _cost(place: Deployment, part: Used) -> int:
    """What an attempt there cost, in pico-dollars."""
    return cost_picousd(place.config.price, part.prompt_tokens, part.cached_tokens, part.generated_tokens)


def _counts(exchange: Exchange, parts: Sequence[Used]) -> tuple[Used, int, bool]:
    """The answer's tokens, those that were used beyond them, and whether any of both is a guess."""
    if not parts:
        return Used(), 0, False
    if exchange.cache is not None:  # what the attempts used was for nothing
        every = total(parts)
        return Used(), every.prompt_tokens + every.generated_tokens, every.is_estimated
    answer, every = answered(exchange, parts[-1]), total(parts)
    used_tokens = every.prompt_tokens + every.generated_tokens
    return answer, used_tokens - answer.prompt_tokens - answer.generated_tokens, every.is_estimated


def _dearest_picousd(exchange: Exchange, answer: Used) -> int:
    """The same tokens at the dearest deployment of the model that was asked for, or of the one that answered."""
    served = exchange.served
    if served is None or not exchange.attempts:
        return 0
    asked, prices = exchange.fleet.models.get(exchange.ask.head.model), served.prices
    if asked is not None and asked.prices is not prices:
        prices = (*prices, *asked.prices)
    dearest = 0
    for price in prices:
        cost = cost_picousd(price, answer.prompt_tokens, answer.cached_tokens, answer.generated_tokens)
        dearest = max(dearest, cost)
    return dearest
