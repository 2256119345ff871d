"""The ledger: one row for every exchange, in SQLite, never its content.

Rows are handed over without waiting and written in batches by a thread, at least once a second and when the ledger is
closed. The queue is bounded: while the disk takes nothing, rows beyond the bound are counted and lost.
"""

import contextlib
import dataclasses
import logging
import sqlite3
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 1
_FLUSH_S = 1.0
_BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One exchange. Times are seconds (`at_s` Unix time of its arrival), cost micro-dollars; None for what is not known.

    `owner` is the beginning of the digest of the client's key. `model` is what was asked for, `served_model` what
    answered, at `deployment` of `tier`. `is_estimated` marks tokens that were guessed. `error` is the type of what went
    wrong. `is_slo_met` is None for a model without SLO and for requests that were the client's own fault.
    """

    id: str
    request_id: str
    at_s: float
    api: str
    owner: str
    model: str
    served_model: str
    deployment: str | None
    tier: str | None
    is_stream: bool
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    is_estimated: bool
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float
    is_slo_met: bool | None
    cost_microusd: int
    attempts: int
    outcome: str
    status: int | None
    error: str | None
    generation: int


_COLUMNS = tuple(field.name for field in dataclasses.fields(LedgerRow))
_INSERT = f"INSERT OR IGNORE INTO exchanges ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, at_s REAL NOT NULL, api TEXT NOT NULL, owner TEXT NOT NULL,
    model TEXT NOT NULL, served_model TEXT NOT NULL, deployment TEXT, tier TEXT, is_stream INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL,
    is_estimated INTEGER NOT NULL, ttft_s REAL, tpot_s REAL, e2e_s REAL NOT NULL, is_slo_met INTEGER,
    cost_microusd INTEGER NOT NULL, attempts INTEGER NOT NULL, outcome TEXT NOT NULL, status INTEGER, error TEXT,
    generation INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS exchanges_at ON exchanges (at_s);
CREATE INDEX IF NOT EXISTS exchanges_of_owner ON exchanges (owner, at_s);
"""


class LedgerError(Exception):
    """The ledger cannot be used; says which file and why."""


class Ledger:
    """The ledger in one file. `start` before the first row, `close` after the last."""

    def __init__(self, path: Path, *, max_waiting: int = 100_000) -> None:
        self.path = path
        self.written = 0
        self.lost = 0
        self._max_waiting = max_waiting
        self._waiting: deque[LedgerRow] = deque()
        self._wake = threading.Event()
        self._is_closing = False
        self._has_failed = False
        self._database: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Open the file, made if it is not there; raises `LedgerError`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = _opened(self.path)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger {self.path} cannot be used: {error}.") from error
        self._thread.start()

    def add(self, row: LedgerRow) -> None:
        """Hand a row over; it is on disk within about a second."""
        if len(self._waiting) >= self._max_waiting:
            self.lost += 1
            return
        self._waiting.append(row)
        if len(self._waiting) >= _BATCH_ROWS:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Rows that are not on disk yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Write what is left and let go of the file. Safe to call twice, and before `start`."""
        self._is_closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(_FLUSH_S)
            self._wake.clear()
            self._flush()
        self._flush()
        if self._database is not None:
            self._database.close()
        self.lost += len(self._waiting)

    def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting[at] for at in range(min(len(self._waiting), _BATCH_ROWS))]
            if not self._write(batch):
                return
            for _ in batch:
                self._waiting.popleft()
            self.written += len(batch)

    def _write(self, batch: list[LedgerRow]) -> bool:
        """Whether the rows are on disk now; those that are not are tried again."""
        if self._database is None:
            return False
        try:
            with self._database:
                self._database.executemany(_INSERT, [dataclasses.astuple(row) for row in batch])
        except sqlite3.Error as error:
            if not self._has_failed:
                log.error("the ledger %s takes no rows: %s; they are tried again", self.path, error)
            self._has_failed = True
            return False
        self._has_failed = False
        return True


def read_rows(path: Path) -> list[LedgerRow]:
    """Every row of a ledger, the oldest first; raises `LedgerError`."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM exchanges ORDER BY at_s, rowid").fetchall()  # noqa: S608
    except sqlite3.Error as error:
        raise LedgerError(f"the ledger {path} cannot be read: {error}.") from error
    return [_row(dict(zip(_COLUMNS, values, strict=True))) for values in found]


def _row(values: dict[str, object]) -> LedgerRow:
    for name in ("is_stream", "is_estimated", "is_slo_met"):
        values[name] = None if values[name] is None else bool(values[name])
    return LedgerRow(**values)  # type: ignore[arg-type]


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine may lose the last second, never the file
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        database.close()
        raise sqlite3.DatabaseError(f"it is of version {version}, and this Servery knows version {VERSION}")
    database.executescript(_SCHEMA)
    database.execute(f"PRAGMA user_version = {VERSION}")
    return database
