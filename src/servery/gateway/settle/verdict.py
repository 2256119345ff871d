"""Whether an exchange kept its model's SLO, and if not, why. Pure."""

from servery.config.types import Slo
from servery.gateway.admit.limits.refusal import OverLimit
from servery.gateway.exchange import Outcome
from servery.gateway.settle.record import Record
from servery.telemetry.exchange_tallies import GOOD


def verdict_of(
    slo: Slo | None,
    record: Record,
    outcome: Outcome,
    error: BaseException | None,
    status: int | None,
    cache: str | None,
) -> str | None:
    """`GOOD`, or the first reason of `MISSED_BY` that holds; None where the SLO promises nothing.

    That is: without one, for what the client itself did wrong or left, over a limit of its own, and when the server stops.
    An answer of before that stood in for one (`cache`) is a miss, however fast it was.
    """
    if slo is None:
        return None
    if outcome is Outcome.COMPLETED:
        return _timed(slo, record) if cache is None else "stale"
    if outcome is Outcome.REFUSED:
        return "shed" if is_shed(outcome, error, status) else None
    if outcome in (Outcome.CLIENT_GONE, Outcome.SHUTDOWN):
        return None
    return "timeout" if outcome is Outcome.TIMEOUT or status == 504 else "error"


def is_shed(outcome: Outcome, error: BaseException | None, status: int | None) -> bool:
    """Whether it was refused because nobody had room for it, not because it asked for more than it may have."""
    return outcome is Outcome.REFUSED and status == 429 and not isinstance(error, OverLimit)


def _timed(slo: Slo, record: Record) -> str:
    ttft_s = record.timing.ttft_s
    if ttft_s is None:
        return GOOD
    if ttft_s > slo.ttft_s:
        return "ttft"
    tpot_s = record.tpot_s
    return "tpot" if tpot_s is not None and tpot_s > slo.tpot_s else GOOD
