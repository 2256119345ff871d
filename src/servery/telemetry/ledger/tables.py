"""What is done with the ledger's tables: made and brought to this version, added to, counted, pruned."""

from collections.abc import Sequence
from dataclasses import dataclass

from servery.telemetry.ledger.database import Database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.judged import add_judged, forget_judged
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.schema import COLUMNS, MIGRATIONS, REFILLS, VERSION, tables

_NAMES = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO exchanges ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"  # noqa: S608
_PRUNE = (
    "DELETE FROM exchanges WHERE id IN (SELECT id FROM exchanges WHERE at_s < ? ORDER BY at_s LIMIT ?) RETURNING id"
)
_ENDED = "UPDATE runs SET ended_s = ?, rows_written = ?, rows_lost = ?, under_way = ?, is_killed = ? WHERE id = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a server, from its start; `started_s` is Unix time."""

    id: str
    host: str
    pid: int
    started_s: float


def prepare(database: Database) -> None:
    """Make the tables, or bring those of an earlier version to this one; raises `LedgerError`, `DatabaseFailure`."""
    check(database)
    with database.transaction():
        found = database.version()  # again, now that nobody else does the same
        for version in range(found or VERSION, VERSION):
            for statement in MIGRATIONS[version]:
                database.execute(statement)
        for statement in (*tables(database.dialect), *database.dialect.append_only):
            database.execute(statement)
        for version in range(found or VERSION, VERSION):
            for statement in REFILLS.get(version, ()):
                database.execute(statement)
        if found < VERSION:
            database.set_version(VERSION)


def check(database: Database, *, is_read_only: bool = False) -> None:
    """Raise `LedgerError` for tables that this Servery does not know, or to be read: not yet."""
    found = database.version()
    if found > VERSION:
        raise LedgerError(
            f"the ledger {database.shown} is of version {found}, and this Servery knows version {VERSION}; take the "
            "Servery that wrote it, or another place."
        )
    if is_read_only and found < VERSION:
        what = "has no tables of a ledger" if found == 0 else f"is of the earlier version {found}"
        raise LedgerError(
            f"the ledger {database.shown} {what}; a server that is started with it brings it to version {VERSION}."
        )


def begin(database: Database, run: Run) -> None:
    """Note that a run has begun."""
    forget_judged(database, run.started_s)
    values = (run.id, run.host, run.pid, run.started_s, None, 0, 0, 0, False)
    database.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608


def append(database: Database, rows: Sequence[LedgerRow], run: str, *, written: int, lost: int) -> None:
    """Write rows, and in the same step that the run has written so many in all, and lost so many.

    What was written before stays as it is: an exchange has one row. The first of `rows` may be such, when the database had
    taken them and could not say so.
    """
    with database.transaction():
        add_judged(database, rows[_already(database, run, written - len(rows)) :])
        database.many(_INSERT, rows)
        database.execute("UPDATE runs SET rows_written = ?, rows_lost = ? WHERE id = ?", (written, lost, run))


def _already(database: Database, run: str, known: int) -> int:
    """How many rows of a run are in the ledger beyond those that it knows to be."""
    told = written(database, run)
    return 0 if told is None else max(0, told[0] - known)


def written(database: Database, run: str) -> tuple[int, int] | None:
    """How many rows a run has written, and how many it knew to be lost; None for a run that is not known."""
    found = database.execute("SELECT rows_written, rows_lost FROM runs WHERE id = ?", (run,))
    return None if not found else (int(found[0][0]), int(found[0][1]))


def end(database: Database, run: str, *, now: float, written: int, lost: int, under_way: int, is_killed: bool) -> None:
    """Note how a run ended."""
    database.execute(_ENDED, (now, written, lost, under_way, is_killed, run))


def prune(database: Database, before_s: float, most_rows: int) -> int:
    """Delete the oldest rows of exchanges that came before a time, at most so many; returns how many there were."""
    with database.transaction():
        return len(database.execute(_PRUNE, (before_s, most_rows)))


def read_rows(database: Database) -> list[LedgerRow]:
    """Every row, the oldest first; raises `LedgerError`."""
    try:
        check(database, is_read_only=True)
        found = database.execute(f"SELECT {_NAMES} FROM exchanges ORDER BY at_s, id")  # noqa: S608
    except DatabaseFailure as failure:
        raise LedgerError(f"the ledger {database.shown} cannot be read: {failure}.") from failure
    return [row_of(values) for values in found]


_FLAGS = tuple(COLUMNS.index(name) for name in ("is_stream", "is_estimated", "is_slo_met"))


def row_of(values: Sequence[object]) -> LedgerRow:
    """A row as it was handed over, of the values of `COLUMNS` as a database gives them."""
    found = list(values)
    for at in _FLAGS:
        found[at] = None if found[at] is None else bool(found[at])
    return LedgerRow._make(found)
