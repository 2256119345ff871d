"""Who was turned away at the admins' door stands in the audit log: few entries, however often somebody knocks.

The log can only be added to, so whoever knocks must not be able to fill it.
"""

import asyncio
import math
from collections.abc import Callable

from servery.telemetry.ledger.audit import Act, AuditLog
from servery.wire.errors import ApiError

QUIET_S = 60.0
_MOST_SOURCES = 100


class TurnedAway:
    """One entry for an address in `QUIET_S`; the next says how many there were besides. `clock` gives monotonic seconds.

    Of so many addresses at a time that they cannot be kept apart only the first have entries.
    """

    def __init__(self, audit: AuditLog, clock: Callable[[], float]) -> None:
        self._audit = audit
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # by address: when an entry was written, and how many came since

    async def tell(self, *, who: str, action: str, source: str, error: ApiError) -> None:
        """Somebody at `source` was refused `action`; waits for the log."""
        more = self._more(source, self._clock())
        if more is None:
            return
        others = f" ({more} more since the last entry)" if more else ""
        outcome = f"turned away {error.status} {error.code or error.kind}{others}"
        act = Act(who=who, action=action, source=source, outcome=outcome)
        await asyncio.shield(asyncio.to_thread(self._audit.record, act))

    def _more(self, source: str, now: float) -> int | None:
        """How many came from there since the last entry; None: this one is only counted."""
        at, more = self._told.get(source, (-math.inf, 0))
        if now - at < QUIET_S:
            self._told[source] = at, more + 1
            return None
        if source not in self._told and len(self._told) >= _MOST_SOURCES:
            self._told = {each: told for each, told in self._told.items() if now - told[0] < QUIET_S}
            if len(self._told) >= _MOST_SOURCES:
                return None
        self._told[source] = now, 0
        return more
