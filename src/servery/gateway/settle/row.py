"""An exchange that is over, as its row in the ledger. Pure."""

from servery.config.types import Slo
from servery.gateway.cost import cost_microusd
from servery.gateway.dispatch.attempt import Attempt
from servery.gateway.exchange import Exchange, Outcome
from servery.gateway.settle.record import Record
from servery.telemetry.ledger import LedgerRow

_OWNER_CHARS = 16


def row_of(
    exchange: Exchange, outcome: Outcome, error: str | None, status: int | None, *, at_s: float, e2e_s: float
) -> LedgerRow:
    """The row; `at_s` is Unix time of the arrival, `status` what the client was told, None if it was told nothing."""
    record, ask = exchange.record, exchange.ask
    served = exchange.attempts[-1].deployment.config if exchange.attempts else None
    slo = None if exchange.served is None else exchange.served.config.slo
    return LedgerRow(
        id=ask.answer_id,
        request_id=exchange.request_id,
        at_s=at_s,
        api=ask.api.value,
        owner=ask.owner.hex()[:_OWNER_CHARS],
        model=exchange.asked_model,
        served_model=ask.model,
        deployment=None if served is None else served.name,
        tier=None if served is None else served.tier.value,
        is_stream=ask.is_stream,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        generated_tokens=record.generated_tokens,
        is_estimated=record.is_estimated,
        ttft_s=record.timing.ttft_s,
        tpot_s=record.tpot_s,
        e2e_s=e2e_s,
        is_slo_met=_is_met(slo, record, outcome, status),
        cost_microusd=sum(_cost(attempt) for attempt in exchange.attempts),
        attempts=len(exchange.attempts),
        outcome=outcome.value,
        status=status,
        error=error,
        generation=exchange.fleet.config.generation,
    )


def _cost(attempt: Attempt) -> int:
    """Of attempts that came to nothing, too, as far as it is known what they took: they are on the bill."""
    return cost_microusd(attempt.deployment.config.price, *attempt.taken)


def _is_met(slo: Slo | None, record: Record, outcome: Outcome, status: int | None) -> bool | None:
    """Whether the answer was what the SLO promises; None where it promises nothing: the client's fault, or its leaving."""
    is_overload = outcome is Outcome.REFUSED and status == 429
    if slo is None or (outcome in (Outcome.REFUSED, Outcome.CLIENT_GONE, Outcome.SHUTDOWN) and not is_overload):
        return None
    if outcome is not Outcome.COMPLETED:
        return False
    ttft_s, tpot_s = record.timing.ttft_s, record.tpot_s
    return (ttft_s is None or ttft_s <= slo.ttft_s) and (tpot_s is None or tpot_s <= slo.tpot_s)
