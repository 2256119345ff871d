"""Rows on their way into the ledger: handed over without waiting, written by a thread in batches.

Rows are on disk within about half a second. The queue is bounded: while the database takes nothing, rows beyond the bound
are counted and lost; so are those that it refuses for what they are. Nothing here ever holds up an answer.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from servery.config.types import LedgerConfig
from servery.telemetry.ledger import tables
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.figures import LedgerFigures
from servery.telemetry.ledger.marks import Marks, left_behind
from servery.telemetry.ledger.row import LedgerRow

log = logging.getLogger(__name__)

_FLUSH_S = 0.5
_BATCH_ROWS = 1_000
_PRUNED_ROWS = 1_000
_PRUNE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRun:
    """A run that was killed: how many rows were not written, and how many exchanges it was in the middle of."""

    id: str
    rows: int
    under_way: int


class Ledger:
    """The ledger of one run. `start` before the first row, `close` after the last."""

    def __init__(
        self,
        place: LedgerConfig,
        *,
        max_waiting: int = 100_000,
        wall: Callable[[], float] = time.time,
        told: Callable[[Sequence[LedgerRow]], None] = lambda rows: None,
    ) -> None:
        """`wall` gives Unix time; `told` hears of rows that were written, from the thread that writes them."""
        self._told = told
        self.place = place
        self.written = 0
        self.failures = 0
        self._dropped = 0  # by whoever hands rows over
        self._refused = 0  # by the thread
        self._max_waiting = max_waiting
        self._wall = wall
        self._run = tables.Run(id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid(), started_s=wall())
        self._waiting: deque[LedgerRow] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._is_failing = False
        self._told_lost = 0
        self._pruned_s = 0.0
        self._database: Database | None = None
        self._marks: Marks | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    def start(self) -> list[LostRun]:
        """Open it, made if it is not there; returns what earlier runs that were killed have lost. Raises `LedgerError`."""
        self._database = database = open_database(self.place)
        try:
            tables.prepare(database)
            lost = self._account(database)
            tables.begin(database, self._run)
        except DatabaseFailure as failure:
            database.close()
            raise LedgerError(f"the ledger {self.place.shown} cannot be used: {failure}.") from failure
        except LedgerError:
            database.close()
            raise
        self._mark()
        self._thread.start()
        return lost

    def begin(self) -> None:
        """An exchange has begun; its row is to come."""
        if self._marks is not None:
            self._marks.begin()

    def add(self, row: LedgerRow) -> None:
        """Hand a row over."""
        if self._marks is not None:
            self._marks.row()
        waiting = len(self._waiting)
        if waiting >= self._max_waiting:
            self._dropped += 1
            return
        self._waiting.append(row)
        if waiting + 1 >= _BATCH_ROWS:
            self._wake.set()

    @property
    def lost(self) -> int:
        """Rows that will not be in the ledger."""
        return self._dropped + self._refused

    @property
    def figures(self) -> LedgerFigures:
        """How it is now."""
        return LedgerFigures(written=self.written, lost=self.lost, waiting=len(self._waiting), failures=self.failures)

    def close(self) -> None:
        """Write what is left and let go of the database. Safe to call twice, and before `start`."""
        self._is_closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    # The start.

    def _account(self, database: Database) -> list[LostRun]:
        """What runs that did not come to their end have lost, noted in the ledger."""
        found = []
        for run, counts in left_behind(*_folder(self.place)):
            known = tables.written(database, run)
            if known is None:
                continue  # it was another ledger that lay here
            lost = LostRun(id=run, rows=max(0, counts.rows - known[0]), under_way=max(0, counts.begun - counts.rows))
            tables.end(
                database, run, now=self._wall(), written=known[0], lost=lost.rows, under_way=lost.under_way,
                is_killed=True,
            )  # fmt: skip
            found.append(lost)
        return found

    def _mark(self) -> None:
        try:
            self._marks = Marks(*_folder(self.place), self._run.id)
        except OSError as error:
            log.warning("what a kill would lose of the ledger is not going to be known: %s", error)

    # The thread.

    def _work(self) -> None:
        while not self._is_closing:
            self._wake.wait(_FLUSH_S)
            self._wake.clear()
            self._flush()
            self._prune()
        self._flush()
        self._end()

    def _flush(self) -> None:
        is_done = False
        while self._waiting and not is_done:
            batch = [self._waiting[at] for at in range(min(len(self._waiting), _BATCH_ROWS))]
            done = self._write(batch)
            for _ in range(done):
                self._waiting.popleft()
            is_done = done < len(batch)
        self._tell()

    def _write(self, batch: list[LedgerRow]) -> int:
        """How many rows, from the first, the database is done with; the others are tried again."""
        try:
            self._append(batch)
        except DatabaseFailure as failure:
            if failure.is_lasting:
                return self._write_halves(batch, failure)
            self._failed(failure)
            return 0
        except LedgerError as error:
            self._failed(error)
            return 0
        return len(batch)

    def _write_halves(self, batch: list[LedgerRow], failure: DatabaseFailure) -> int:
        """Write a batch part by part, because something is wrong with one of its rows; that one is lost."""
        if len(batch) == 1:
            log.error("the ledger %s refuses the row of exchange %s: %s", self.place.shown, batch[0].id, failure)
            self._refused += 1
            return 1
        middle = len(batch) // 2
        done = self._write(batch[:middle])
        return done if done < middle else done + self._write(batch[middle:])

    def _append(self, batch: list[LedgerRow]) -> None:
        if self._database is None:
            self._database = open_database(self.place)
        total = self.written + len(batch)
        tables.append(self._database, batch, self._run.id, written=total, lost=self.lost)
        self.written = total
        self._told(batch)
        if self._is_failing:
            log.warning("the ledger %s takes rows again", self.place.shown)
        self._is_failing = False

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if not self._is_failing:
            log.error("the ledger %s takes no rows: %s; they are tried again", self.place.shown, error)
        self._is_failing = True
        if self._database is not None:
            self._database.close()  # the next try is one with a new connection
            self._database = None

    def _tell(self) -> None:
        if self.lost > self._told_lost:
            log.error("the ledger %s has lost %d rows since the start", self.place.shown, self.lost)
            self._told_lost = self.lost

    def _prune(self) -> None:
        """Delete some of the rows that are too old; the rest in the next turn."""
        now = self._wall()
        if self.place.retention_s is None or self._database is None or now - self._pruned_s < _PRUNE_S:
            return
        try:
            pruned = tables.prune(self._database, now - self.place.retention_s, _PRUNED_ROWS)
            if pruned < _PRUNED_ROWS:
                self._pruned_s = now
            if pruned:
                self._database.compact()
        except DatabaseFailure as failure:
            self._failed(failure)
            self._pruned_s = now

    def _end(self) -> None:
        """The last word; what was not written is lost, or left to the next start to be told."""
        self._refused += len(self._waiting)
        self._waiting.clear()
        self._tell()
        is_told = False
        if self._database is not None:
            try:
                tables.end(
                    self._database, self._run.id, now=self._wall(), written=self.written, lost=self.lost, under_way=0,
                    is_killed=False,
                )  # fmt: skip
                is_told = True
            except DatabaseFailure as failure:
                log.error("the end of this run is not in the ledger %s: %s", self.place.shown, failure)
            self._database.close()
        if self._marks is not None:
            self._marks.close(is_kept=not is_told)
            self._marks = None


def _folder(place: LedgerConfig) -> tuple[Path, str]:
    """Where the marks of a ledger's runs lie, and how their names begin: beside a file, else in the user's state."""
    if place.path is not None:
        return place.path.parent, f".{place.path.name}-run-"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "servery", f"ledger-{sha256(place.shown.encode()).hexdigest()[:12]}-run-"
