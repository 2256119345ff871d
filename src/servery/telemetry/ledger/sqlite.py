"""A ledger in a file: SQLite in WAL mode, which many may read while one writes."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.schema import Dialect

_BUSY_S = 5.0
_WAL_TRIES = 100
_FREED_PAGES = 256
_STREAMED_ROWS = 1_000
# With 32 columns that is a tenth of the parameters that a statement may have.
_ROWS_AT_ONCE = 100
_ONE_ROW = re.compile(r"VALUES (\(\?(?:, \?)*\))")
_SEVERAL_ROWS = "VALUES " + ", ".join([r"\1"] * _ROWS_AT_ONCE)
# What is wrong with the values: the same statement fails again. The rest is the disk, a lock, the machine.
_LASTING = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)


_DIALECT: Final = Dialect(
    types=MappingProxyType({str: "TEXT", float: "REAL", int: "INTEGER", bool: "INTEGER"}),
    serial="INTEGER",
    day="strftime('%Y-%m-%d', {column}, 'unixepoch')",
    whole="CAST({value} AS INTEGER)",
    append_only=tuple(
        f"CREATE TRIGGER IF NOT EXISTS audit_refuses_{verb.lower()} BEFORE {verb} ON audit {when}"
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        for verb, when in (
            ("UPDATE", ""),
            ("DELETE", ""),
            # INSERT OR REPLACE deletes without a word to the trigger above.
            ("INSERT", "WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) "),
        )
    ),
    table=" STRICT",
)


class SqliteDatabase:
    """One connection. Writers wait up to five seconds for each other."""

    dialect = _DIALECT

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        """Raises `LedgerError`; makes the file unless it is only to be read."""
        self.shown = str(path)
        if is_read_only and not path.is_file():
            raise LedgerError(f"there is no ledger at {path}; `ledger` in the configuration says where one is kept.")
        try:
            if not is_read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600, exist_ok=True)  # SQLite gives its other files the same mode
            self._connection = _connected(path, is_read_only=is_read_only)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger {path} cannot be used: {error}.") from error

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Carry out one statement; what it found."""
        with _failures():
            return self._connection.execute(sql, values).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out an INSERT of one row for each of the rows, many of them in one statement.

        Between two statements Python goes on with another thread, and each such change takes longer than a row.
        """
        several = _ONE_ROW.sub(_SEVERAL_ROWS, sql, count=1)
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        with _failures():
            for at in range(0, whole, _ROWS_AT_ONCE):
                values = [value for row in rows[at : at + _ROWS_AT_ONCE] for value in row]
                self._connection.execute(several, values)
            self._connection.executemany(sql, rows[whole:])

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """What a query finds, a little at a time and all as of one moment."""
        with _failures():
            cursor = self._connection.execute(sql, values)
            cursor.arraysize = _STREAMED_ROWS
            while found := cursor.fetchmany():
                yield from found

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Inside, all or nothing is done, and nobody else writes."""
        with _failures():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def version(self) -> int:
        """The version of its tables, 0 if there are none."""
        return int(self.execute("PRAGMA user_version")[0][0])

    def set_version(self, version: int) -> None:
        """Note the version of its tables."""
        self.execute(f"PRAGMA user_version = {version:d}")

    def compact(self) -> None:
        """Give some of the space back that deleted rows have left."""
        self.execute(f"PRAGMA incremental_vacuum({_FREED_PAGES})")

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        self._connection.close()


def _connected(path: Path, *, is_read_only: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if is_read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=_BUSY_S, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # raises for what is no database
        if not is_read_only:
            _use_wal(connection)
            # A crash of the machine may lose the last moments, never the file; one of the process loses nothing.
            connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set a new file up. Of several processes that do so at once SQLite lets all but one fail without waiting."""
    for tries_left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts for a file without tables
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if not tries_left:
                raise
            time.sleep(_BUSY_S / _WAL_TRIES)
        else:
            return


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        is_lasting = isinstance(error, (*_LASTING, OverflowError, UnicodeError))
        raise DatabaseFailure(str(error), is_lasting=is_lasting) from error
