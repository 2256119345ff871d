"""What the ledger asks of a database. There are two: a file, and a server."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from servery.config.types import LedgerConfig
from servery.telemetry.ledger.errors import LedgerError
from servery.telemetry.ledger.schema import Dialect
from servery.telemetry.ledger.sqlite import SqliteDatabase


class Database(Protocol):
    """An open connection, for one thread at a time. Statements have `?` for values; each raises `DatabaseFailure`.

    `shown` names it without a password.
    """

    shown: str

    @property
    def dialect(self) -> Dialect:
        """How it says things."""
        ...

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Carry out one statement; what it found."""
        ...

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out one statement for each of the rows."""

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """What a query finds, a little at a time and all as of one moment."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Inside, all or nothing is done, and nobody else writes what a ledger is written with."""
        ...

    def version(self) -> int:
        """The version of its tables, 0 if there are none."""
        ...

    def set_version(self, version: int) -> None:
        """Note the version of its tables."""

    def compact(self) -> None:
        """Give some of the space back that deleted rows have left."""

    def close(self) -> None:
        """Let go of it; safe to call twice."""


def open_database(place: LedgerConfig, *, is_read_only: bool = False) -> Database:
    """Open the ledger at `place`; raises `LedgerError`. To read, it has to be there."""
    if place.url is not None:
        from servery.telemetry.ledger.postgres import PostgresDatabase  # an extra: only where it is wanted

        return PostgresDatabase(place.url, place.shown, is_read_only=is_read_only)
    if place.path is None:
        raise LedgerError("a ledger needs a file or an address: servery-ledger.sqlite, or postgresql://HOST/DATABASE.")
    return SqliteDatabase(place.path, is_read_only=is_read_only)
