"""Budgets that are counted in memory go on after a restart with what the ledger says was spent."""

import logging

from servery.config.types import LedgerConfig
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import LimitStore, Measure, day_of, month_begins, month_of
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.spent import spent_since

log = logging.getLogger(__name__)

_DAY_S = 86_400


def recall_spent(store: LimitStore, ledger: LedgerConfig | None, now_s: float) -> None:
    """Count what was spent this day and this month of UTC, where the store is memory and there is a ledger."""
    if ledger is None or not isinstance(store, MemoryLimits):
        return
    day = day_of(int(now_s))
    try:
        for measure, first in ((Measure.DAY, day), (Measure.MONTH, month_begins(month_of(day)))):
            for spent in spent_since(ledger, first * _DAY_S):
                for scope, name in (("key", spent.key_id), ("owner", spent.owner), ("model", spent.model)):
                    if name:
                        store.spend(scope, name, measure, spent.microusd)
    except (LedgerError, DatabaseFailure) as error:
        log.error("budgets begin at nothing, because the ledger does not say what was spent: %s", error)
