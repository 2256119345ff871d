"""A ledger in a PostgreSQL database, which several servers may share."""

import contextlib
import datetime
import itertools
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any, Final

from servery.config.secret import Secret
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.schema import Dialect

try:
    import psycopg
except ModuleNotFoundError as error:
    raise LedgerError(
        "a ledger in PostgreSQL needs psycopg, which is not installed; pip install 'servery[postgres]' brings it."
    ) from error

_CONNECT_S = 5
# So that neither a lock nor a server that hangs holds up a writer for longer.
_LIMITS = "-c statement_timeout=30000 -c lock_timeout=5000"
_STREAMED_ROWS = 1_000
_LOCK = 0x5E12E21  # the ledger's, among the database's advisory locks
_CURSORS = itertools.count(1)

# What is wrong with the values: the same statement fails again. The rest is the network, a lock, the server.
_LASTING = (psycopg.DataError, psycopg.IntegrityError, OverflowError, UnicodeError)

_DIALECT: Final = Dialect(
    types=MappingProxyType({str: "TEXT", float: "DOUBLE PRECISION", int: "BIGINT", bool: "BOOLEAN"}),
    serial="BIGINT",
    day="to_char(to_timestamp({column}) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    whole="CAST(floor({value}) AS BIGINT)",
    append_only=(
        (
            "CREATE OR REPLACE FUNCTION servery_audit_refuses() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        ),
        "DROP TRIGGER IF EXISTS audit_refuses ON audit",
        (
            "CREATE TRIGGER audit_refuses BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION servery_audit_refuses()"
        ),
    ),
)


class PostgresDatabase:
    """One connection."""

    dialect = _DIALECT

    def __init__(self, url: Secret, shown: str, *, is_read_only: bool = False) -> None:
        """`shown` is the address without its password; raises `LedgerError`."""
        self.shown = shown
        try:
            self._connection = psycopg.connect(
                url.reveal(),
                autocommit=True,
                connect_timeout=_CONNECT_S,
                options=f"{_LIMITS} -c default_transaction_read_only={'on' if is_read_only else 'off'}",
                application_name="servery",
            )
        except psycopg.OperationalError as error:
            raise LedgerError(f"the ledger {shown} cannot be used: {_line(error)}.") from error
        except psycopg.Error:
            # What the library says of an address that it cannot read has parts of it, perhaps the password.
            message = (
                f"the ledger's address is not right; it is taken for {shown}. Write postgresql://USER@HOST/DATABASE."
            )
            raise LedgerError(message) from None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Carry out one statement; what it found."""
        with _failures():
            cursor = self._connection.execute(_own(sql), values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out one statement for each of the rows."""
        with _failures(), self._connection.cursor() as cursor:
            cursor.executemany(_own(sql), rows)

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """What a query finds, a little at a time and all as of one moment."""
        name = f"servery_{next(_CURSORS)}"
        with _failures(), self._connection.transaction(), self._connection.cursor(name) as cursor:
            cursor.itersize = _STREAMED_ROWS
            cursor.execute(_own(sql), values or None)
            yield from cursor

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Inside, all or nothing is done, and of the ledger's writers one at a time."""
        with _failures(), self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            yield

    def version(self) -> int:
        """The version of its tables, 0 if there are none."""
        if self.execute("SELECT to_regclass('servery_ledger')") == [(None,)]:
            return 0
        return int(self.execute("SELECT max(version) FROM servery_ledger")[0][0])

    def set_version(self, version: int) -> None:
        """Note the version of its tables."""
        self.execute("CREATE TABLE IF NOT EXISTS servery_ledger (version BIGINT PRIMARY KEY, at TEXT NOT NULL)")
        now = datetime.datetime.now(datetime.UTC).isoformat()
        self.execute("INSERT INTO servery_ledger VALUES (?, ?) ON CONFLICT DO NOTHING", (version, now))

    def compact(self) -> None:
        """Nothing: the server's own autovacuum does it."""

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        self._connection.close()


def _own(sql: str) -> str:
    """The statement with psycopg's marks for values."""
    return sql.replace("?", "%s")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, OverflowError, UnicodeError) as error:
        is_lasting = isinstance(error, _LASTING)
        raise DatabaseFailure(_line(error), is_lasting=is_lasting) from error
