"""What was spent since a moment, by key, owner and model: what budgets that are kept in memory begin with."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from servery.config.types import LedgerConfig
from servery.telemetry.ledger.database import open_database

# Each exchange is rounded up to a whole micro-dollar, as budgets count it.
_SPENT = """
SELECT key_id, owner, model, sum((cost_nanousd + 999) / 1000) FROM exchanges
WHERE at_s >= ? AND cost_nanousd > 0 GROUP BY key_id, owner, model
"""


class Spent(NamedTuple):
    """Micro-dollars of one key of an owner for one model, by the name that was asked for."""

    key_id: str
    owner: str | None
    model: str
    microusd: int


def spent_since(place: LedgerConfig, since_s: float) -> Sequence[Spent]:
    """What the exchanges that came from then on have cost; raises `LedgerError`, `DatabaseFailure`."""
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        rows = database.execute(_SPENT, (since_s,))
    return [Spent(key_id, owner, model, int(microusd)) for key_id, owner, model, microusd in rows]
