"""How many exchanges kept their model's SLO, by minute: a small table beside the rows, which windows of weeks can be read from.

It is written in one step with the rows, outlives those that are pruned, and is shared by all who write into a ledger.
"""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from servery.config.types import LedgerConfig
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.slo import WINDOWS_S, Count

_MINUTE_S = 60
_KEPT_MINUTES = 62 * 24 * 60
_ADD = """
INSERT INTO slo_minutes (minute, model, good, missed) VALUES (?, ?, ?, ?) ON CONFLICT (minute, model) DO UPDATE
SET good = slo_minutes.good + excluded.good, missed = slo_minutes.missed + excluded.missed
"""
_SUM = "CAST(COALESCE(sum(CASE WHEN minute > ? THEN {} ELSE 0 END), 0) AS BIGINT)"
# These are read at every look; the longer ones, which have many minutes, so seldom that it takes a hundredth of the time.
_SHORT = tuple(name for name, span_s in WINDOWS_S.items() if span_s <= WINDOWS_S["6h"])
_LONG = tuple(name for name in WINDOWS_S if name not in _SHORT)
_LONG_TIMES = 100.0


def add_judged(database: Database, rows: Sequence[LedgerRow]) -> None:
    """Count rows, each by the minute in which it was over. To be called inside the transaction that writes them."""
    cells: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        if row.is_slo_met is not None:
            cells[int((row.at_s + row.e2e_s) // _MINUTE_S), row.served_model][not row.is_slo_met] += 1
    if cells:
        database.many(_ADD, [(*key, *counts) for key, counts in sorted(cells.items())])


def forget_judged(database: Database, now_s: float) -> None:
    """Delete minutes that no window reaches."""
    database.execute("DELETE FROM slo_minutes WHERE minute < ?", (int(now_s // _MINUTE_S) - _KEPT_MINUTES,))


def judged(database: Database, windows: Sequence[str], now_s: float) -> Mapping[str, Mapping[str, Count]]:
    """By model as it was served and by window, right to the minute; raises `DatabaseFailure`."""
    starts = [int((now_s - WINDOWS_S[name]) // _MINUTE_S) for name in windows]
    sums = ", ".join(_SUM.format(column) for _ in windows for column in ("good", "missed"))
    values = [start for start in starts for _ in range(2)]
    found = database.execute(
        f"SELECT model, {sums} FROM slo_minutes WHERE minute > ? GROUP BY model",  # noqa: S608 - names of this file
        (*values, min(starts)),
    )
    return {
        str(model): {
            name: Count(int(good), int(missed))
            for name, good, missed in zip(windows, counts[::2], counts[1::2], strict=True)
        }
        for model, *counts in found
    }


class LedgerCounts:
    """Reads the ledger at `place`; `wall` gives Unix time, `clock` that of stopwatches. For one thread at a time."""

    def __init__(
        self, place: LedgerConfig, wall: Callable[[], float], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._place = place
        self._wall = wall
        self._clock = clock
        self._long: Mapping[str, Mapping[str, Count]] = {}
        self._next_long_s = -math.inf

    def read(self) -> Mapping[str, Mapping[str, Count]]:
        """By model as it was served and by window; raises `LedgerError`, `DatabaseFailure`."""
        now_s = self._wall()
        with contextlib.closing(open_database(self._place, is_read_only=True)) as database:
            began_s = self._clock()
            if began_s >= self._next_long_s:
                self._long = judged(database, _LONG, now_s)
                ended_s = self._clock()
                self._next_long_s = ended_s + _LONG_TIMES * (ended_s - began_s)
            short = judged(database, _SHORT, now_s)
        return {model: {**self._long.get(model, {}), **short.get(model, {})} for model in {**self._long, **short}}
