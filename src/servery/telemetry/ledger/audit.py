"""What administrators did: a log that can be added to and not changed, each entry sealed with the one before.

The database refuses to change or delete an entry. An entry's digest is over the entry before it, so that whoever gets
around that, by writing to the file itself, has to write every later entry anew, and the last digest is another one.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from servery.config.types import LedgerConfig
from servery.telemetry.ledger import tables
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError

log = logging.getLogger(__name__)

_MOST_CHARS = 500
_COLUMNS = "seq, at_s, who, action, subject, source, outcome, digest"
_LAST = "SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1"
_FIRST_DIGEST = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody did: the id of the key (or "local"), what to what, from which address, and what came of it."""

    who: str
    action: str
    subject: str = ""
    source: str = ""
    outcome: str = "done"


class Entry(NamedTuple):
    """An act as it stands in the log; `at_s` is Unix time."""

    seq: int
    at_s: float
    who: str
    action: str
    subject: str
    source: str
    outcome: str
    digest: str


class AuditLog:
    """Where acts are written down; without a ledger they are in the process's log alone."""

    def __init__(self, place: LedgerConfig | None = None, wall: Callable[[], float] = time.time) -> None:
        """`wall` gives Unix time."""
        self._place = place
        self._wall = wall

    def record(self, act: Act) -> bool:
        """Write an act down, at once; waits for the database. False if it stands in the process's log alone."""
        log.info(
            "%s did %s (%s) from %s: %s", *map(_clean, (act.who, act.action, act.subject, act.source, act.outcome))
        )
        if self._place is None:
            return False
        try:
            with contextlib.closing(open_database(self._place)) as database:
                tables.prepare(database)
                _append(database, act, self._wall())
        except (DatabaseFailure, LedgerError) as error:
            log.error("the audit log %s has not taken the last act: %s", self._place.shown, error)
            return False
        return True


def entries(database: Database, since_s: float = 0.0, until_s: float = 1e12) -> Iterator[Entry]:
    """The entries of a time, the oldest first; raises `DatabaseFailure`."""
    sql = f"SELECT {_COLUMNS} FROM audit WHERE at_s >= ? AND at_s < ? ORDER BY seq"  # noqa: S608
    return (Entry._make(values) for values in database.stream(sql, (since_s, until_s)))


def broken_at(found: Iterable[Entry]) -> int | None:
    """The first entry that is not what was written, or behind which one is missing; None if all are. From the first on."""
    digest = _FIRST_DIGEST
    for seq, entry in enumerate(found, 1):
        if entry.seq != seq or entry.digest != _digest(digest, entry):
            return seq
        digest = entry.digest
    return None


def _append(database: Database, act: Act, at_s: float) -> None:
    with database.transaction():
        last = database.execute(_LAST)
        seq, digest = (int(last[0][0]), str(last[0][1])) if last else (0, _FIRST_DIGEST)
        who, action, subject, source, outcome = map(_clean, (act.who, act.action, act.subject, act.source, act.outcome))
        entry = Entry(seq + 1, at_s, who, action, subject, source, outcome, "")
        entry = entry._replace(digest=_digest(digest, entry))
        database.execute(f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entry)  # noqa: S608


def _digest(before: str, entry: Entry) -> str:
    """SHA-256 over what was before and every field, each behind its length so that none can run into the next."""
    fields = (before, str(entry.seq), repr(float(entry.at_s)), *entry[2:7])
    return hashlib.sha256("".join(f"{len(each)}:{each}" for each in fields).encode()).hexdigest()


def _clean(text: str) -> str:
    """On one line, and not longer than it need be: names come from clients."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MOST_CHARS])
    return shown.encode("utf-8", "backslashreplace").decode()
