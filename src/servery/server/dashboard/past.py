"""Hours and days that are over: from the ledger, or without one from what is left in memory."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from servery.config.types import LedgerConfig
from servery.server.dashboard.figures import point_figures, summary_figures
from servery.telemetry.history import History
from servery.telemetry.ledger.database import open_database
from servery.telemetry.settled import SettledRows
from servery.telemetry.timeline import Timeline

_FRESH_S = 10.0
# The database is kept busy for no more than a twentieth of the time.
_REST = 20.0


@dataclass(frozen=True, slots=True)
class Range:
    """So many slices of `step_s` each."""

    step_s: float
    length: int


RANGES: Mapping[str, Range] = MappingProxyType(
    {"1h": Range(20.0, 180), "24h": Range(480.0, 180), "7d": Range(3600.0, 168)}
)


class Past:
    """Answers each question at most once in a while, however many ask it. `wall` gives Unix time."""

    def __init__(
        self, ledger: LedgerConfig | None, settled: SettledRows, wall: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._settled = settled
        self._wall = wall
        self._kept: dict[tuple[str, str], tuple[float, bytes]] = {}
        self._turn = asyncio.Lock()

    async def read(self, name: str, model: str) -> bytes:
        """A range of `RANGES`, of a model that is served or of all (""), as JSON; raises `LedgerError`, `DatabaseFailure`."""
        async with self._turn:
            until_s, body = self._kept.get((name, model), (0.0, b""))
            if self._wall() >= until_s:
                body = await self._asked(name, model)
            return body

    async def _asked(self, name: str, model: str) -> bytes:
        began_s = self._wall()
        told = await asyncio.to_thread(self._read, RANGES[name], model, began_s)
        body = msgspec.json.encode({"object": "dashboard.history", "range": name, "model": model, **told})
        took_s = self._wall() - began_s
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > began_s}
        self._kept[name, model] = (self._wall() + max(_FRESH_S, _REST * took_s), body)
        return body

    def _read(self, span: Range, model: str, now_s: float) -> dict[str, Any]:
        since_s = span.step_s * (now_s // span.step_s - span.length + 1)
        if self._ledger is None:
            line = Timeline(span.step_s, span.length)
            line.turn(now_s)
            for row in self._settled.since(0)[0]:
                if not model or row.served_model == model or row.served_model.startswith(f"{model}:"):
                    line.add(row)
            points, summary = line.points(), line.summary()
        else:
            with contextlib.closing(open_database(self._ledger, is_read_only=True)) as database:
                history = History(database, since_s, model or None)
                points, summary = history.points(span.step_s), history.summary()
        return {
            "at_s": now_s,
            "since_s": since_s,
            "step_s": span.step_s,
            "source": "memory" if self._ledger is None else "ledger",
            "points": [point_figures(each) for each in points],
            "summary": summary_figures(summary, span.step_s * span.length),
        }
