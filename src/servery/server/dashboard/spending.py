"""Keys and owners with what they may spend and have spent, this day and this month of UTC. Never a secret."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servery.config.types import LedgerConfig, Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import LimitStore, day_of, month_begins, month_of
from servery.server.dashboard.figures import MOST_KEYS
from servery.server.key_watch import KeyWatch
from servery.telemetry.history import History
from servery.telemetry.ledger.database import open_database
from servery.telemetry.timeline import NO_PART, Part
from servery.upstream.caller import Caller

_DAY_S = 86_400
Spent = dict[str, Part]


class Spending:
    """Reads what was spent from the ledger or, without one, from the budgets that this process counts in `limits`."""

    def __init__(
        self,
        watch: KeyWatch | None,
        ledger: LedgerConfig | None,
        limits: LimitStore,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._watch = watch
        self._ledger = ledger
        self._limits = limits
        self._wall = wall

    def read(self, callers: Sequence[Caller], owners: Mapping[str, Limits]) -> list[dict[str, Any]]:
        """These keys, those that spent most today first, then the owners with limits; waits for databases.

        Raises `LedgerError`, `DatabaseFailure`, `KeyStoreError`.
        """
        day, month = self._sums("key_id"), self._sums("owner")
        names = {} if self._watch is None or self._watch.store is None else _names(self._watch)
        keys = [
            {
                "scope": "key", "id": each.key, "name": names.get(each.key, ""), "owner": each.owner,
                **self._purse("key", each.key, each.limits, day),
            }
            for each in callers
        ]  # fmt: skip
        keys.sort(key=lambda key: (-(key["day_microusd"] or 0), -key["requests"], key["id"]))
        bound = [
            {"scope": "owner", "id": name, "name": "", "owner": name, **self._purse("owner", name, limits, month)}
            for name, limits in sorted(owners.items())
        ]
        return [*keys[:MOST_KEYS], *bound[:MOST_KEYS]]

    def _purse(self, scope: str, name: str, limits: Limits | None, spent: tuple[Spent, Spent] | None) -> dict[str, Any]:
        if spent is not None:
            day, month = spent[0].get(name, NO_PART), spent[1].get(name, NO_PART)
            used: tuple[int | None, int | None] = (_microusd(day), _microusd(month))
        elif isinstance(self._limits, MemoryLimits):
            day, used = NO_PART, self._limits.spent(scope, name)
        else:
            day, used = NO_PART, (None, None)
        return {
            "requests": day[0],
            "tokens": day[2],
            "day_microusd": used[0],
            "month_microusd": used[1],
            "day_limit_microusd": None if limits is None else limits.microusd_per_day,
            "month_limit_microusd": None if limits is None else limits.microusd_per_month,
            "requests_per_minute": None if limits is None else limits.requests_per_minute,
        }

    def _sums(self, column: str) -> tuple[Spent, Spent] | None:
        if self._ledger is None:
            return None
        day = day_of(int(self._wall()))
        with contextlib.closing(open_database(self._ledger, is_read_only=True)) as database:
            begins = [day * _DAY_S, month_begins(month_of(day)) * _DAY_S]
            parts = [History(database, float(begin)) for begin in begins]
            of_day, of_month = (each.by_key() if column == "key_id" else each.by_owner() for each in parts)
        return of_day, of_month


def _names(watch: KeyWatch) -> dict[str, str]:
    return {} if watch.store is None else {key.id: key.terms.name for key in watch.store.all()}


def _microusd(part: Part) -> int:
    return -(-part[3] // 1000)
