import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from servery.config.types import LedgerConfig
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.figures import LedgerFigures
from servery.telemetry.ledger.reading import rows_in
from servery.telemetry.ledger.schema import VERSION
from servery.telemetry.ledger.tables import prepare
from servery.telemetry.ledger.writer import Ledger, LostRun
from tests.telemetry.ledger.rows import ROW

DAY_S = 86_400.0


def opened(place: LedgerConfig) -> "contextlib.closing[Database]":
    return contextlib.closing(open_database(place))


def runs(place: LedgerConfig) -> list[tuple[Any, ...]]:
    """Of each run: whether it was ended, rows written, rows lost, exchanges under way, whether it was killed."""
    with opened(place) as database:
        found = database.execute(
            "SELECT ended_s, rows_written, rows_lost, under_way, is_killed FROM runs ORDER BY started_s"
        )
    return [(ended is not None, written, lost, way, bool(killed)) for ended, written, lost, way, killed in found]


def test_rows_are_read_as_they_were_written_after_it_was_closed(place: LedgerConfig) -> None:
    ledger = Ledger(place)
    assert ledger.start() == []
    rows = [
        ROW,
        ROW._replace(
            id="b", at_s=2.0, is_slo_met=False, deployment=None, tier=None, ttft_s=None, error="x", owner=None
        ),
    ]
    for row in rows:
        ledger.begin()
        ledger.add(row)
    ledger.close()
    ledger.close()
    assert rows_in(place) == rows
    assert ledger.figures == LedgerFigures(written=2, lost=0, waiting=0, failures=0)
    assert runs(place) == [(True, 2, 0, 0, False)]


def test_rows_are_in_the_database_without_its_being_closed(place: LedgerConfig) -> None:
    ledger = Ledger(place)
    ledger.start()
    written = threading.Event()
    for at in range(2500):
        ledger.add(ROW._replace(id=str(at)))
    while not written.wait(0.01):
        if ledger.written == 2500:
            written.set()
    assert len(rows_in(place)) == 2500
    ledger.close()


def test_a_later_run_adds_to_the_rows_and_an_exchange_has_one_only(place: LedgerConfig) -> None:
    for row in (ROW, ROW._replace(id="b"), ROW._replace(outcome="failed")):
        ledger = Ledger(place)
        assert ledger.start() == []
        ledger.add(row)
        ledger.close()
    assert [(row.id, row.outcome) for row in rows_in(place)] == [("a", "completed"), ("b", "completed")]


def test_more_rows_than_may_wait_are_counted_as_lost(tmp_path: Path) -> None:
    ledger = Ledger(LedgerConfig(path=tmp_path / "rows.sqlite"), max_waiting=3)
    for at in range(5):
        ledger.add(ROW._replace(id=str(at)))
    assert ledger.figures == LedgerFigures(written=0, lost=2, waiting=3, failures=0)
    ledger.close()  # it never began


def test_rows_that_a_locked_file_refuses_are_tried_again_and_the_trouble_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("servery.telemetry.ledger.sqlite._BUSY_S", 0.01)
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    ledger = Ledger(place)
    ledger.start()
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.add(ROW)
        ledger._wake.set()
        refused = threading.Event()
        while not refused.wait(0.01):
            ledger._wake.set()
            if ledger.failures > 1:
                refused.set()
        assert (ledger.written, ledger.figures.waiting) == (0, 1)
        other.execute("ROLLBACK")
    ledger.close()
    assert rows_in(place) == [ROW]
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [
        (logging.ERROR, f"the ledger {place.path} takes no rows: database is locked; they are tried again"),
        (logging.WARNING, f"the ledger {place.path} takes rows again"),
    ]


def test_processes_that_make_the_same_file_at_once_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("servery.telemetry.ledger.sqlite._BUSY_S", 0.01)
        monkeypatch.setattr("servery.telemetry.ledger.sqlite.time.sleep", lambda _: other.execute("ROLLBACK"))
        open_database(LedgerConfig(path=path)).close()
        assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


def test_a_full_disk_costs_the_rows_beyond_the_bound_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    ledger = Ledger(place, max_waiting=2)
    ledger.start()

    def full(*_: object, **__: object) -> None:
        raise DatabaseFailure("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("servery.telemetry.ledger.tables.append", full)
        for at in range(5):
            ledger.add(ROW._replace(id=str(at)))
        ledger.close()
    assert ledger.figures.lost == 5
    assert ledger.figures.failures >= 1
    assert f"the ledger {place.path} has lost 5 rows since the start" in caplog.text
    later = Ledger(place)
    assert later.start() == [LostRun(id=ledger._run.id, rows=5, under_way=0)]
    later.close()


def test_a_row_that_no_database_takes_is_lost_alone(place: LedgerConfig, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(place)
    ledger.start()
    rows = [ROW._replace(id=str(at)) for at in range(9)]
    for at, row in enumerate(rows):
        ledger.add(row._replace(model="\ud800") if at == 5 else row)
    ledger.close()
    assert rows_in(place) == rows[:5] + rows[6:]
    assert ledger.figures == LedgerFigures(written=8, lost=1, waiting=0, failures=0)
    assert runs(place) == [(True, 8, 1, 0, False)]
    assert "refuses the row of exchange 5" in caplog.text


def test_a_connection_that_is_cut_is_made_anew_and_no_row_is_lost(
    place: LedgerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    if place.url is None:
        return  # a file has no connection
    ledger = Ledger(place)
    ledger.start()
    with psycopg.connect(place.url.reveal(), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    for at in range(3):
        ledger.add(ROW._replace(id=str(at)))
    written = threading.Event()
    while not written.wait(0.01):
        ledger._wake.set()
        if ledger.written == 3:
            written.set()
    ledger.close()
    assert [row.id for row in rows_in(place)] == ["0", "1", "2"]
    assert ledger.figures == LedgerFigures(written=3, lost=0, waiting=0, failures=1)
    assert "takes rows again" in caplog.text


def test_rows_that_are_too_old_are_deleted_in_small_batches(
    place: LedgerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servery.telemetry.ledger.writer._PRUNED_ROWS", 3)
    kept = LedgerConfig(path=place.path, url=place.url, retention_s=2 * DAY_S)
    ledger = Ledger(kept, wall=lambda: 10 * DAY_S)
    ledger.start()
    for day in range(10):
        ledger.add(ROW._replace(id=str(day), at_s=day * DAY_S))
    pruned = threading.Event()
    while not pruned.wait(0.01):
        ledger._wake.set()
        if [row.id for row in rows_in(kept)] == ["8", "9"]:
            pruned.set()
    ledger.close()


def test_a_file_of_the_first_version_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(FIRST_VERSION)
    ledger = Ledger(LedgerConfig(path=path))
    ledger.start()
    ledger.add(ROW._replace(id="new", at_s=9.0))
    ledger.close()
    old = ROW._replace(
        id="old", key_id="beef", owner=None, reasoning_tokens=0, extra_tokens=0, queue_s=0.0, cost_nanousd=12_000, dearest_nanousd=12_000,
        cache=None, route=None,
    )  # fmt: skip
    assert rows_in(path) == [old, ROW._replace(id="new", at_s=9.0)]
    with opened(LedgerConfig(path=path)) as database:
        assert database.version() == VERSION
        columns = {name: kind for _, name, kind, *_ in database.execute("PRAGMA table_info(exchanges)")}
    with opened(LedgerConfig(path=tmp_path / "fresh.sqlite")) as database:
        prepare(database)
        assert columns == {name: kind for _, name, kind, *_ in database.execute("PRAGMA table_info(exchanges)")}


def test_a_ledger_of_a_later_version_is_refused_by_name(place: LedgerConfig) -> None:
    with opened(place) as database:
        database.set_version(99)
    with pytest.raises(LedgerError, match="is of version 99, and this Servery knows version 3; take the Servery that"):
        Ledger(place).start()


def test_what_is_no_ledger_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_bytes(b"no database at all, but a text of some length" * 30)
    with pytest.raises(LedgerError, match=r"rows\.sqlite cannot be used: file is not a database"):
        Ledger(LedgerConfig(path=path)).start()
    with pytest.raises(LedgerError, match=r"there is no ledger at .*none\.sqlite"):
        rows_in(tmp_path / "none.sqlite")
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    with pytest.raises(LedgerError, match="has no tables of a ledger"):
        rows_in(tmp_path / "empty.sqlite")


FIRST_VERSION = """
CREATE TABLE exchanges (
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, at_s REAL NOT NULL, api TEXT NOT NULL, owner TEXT NOT NULL,
    model TEXT NOT NULL, served_model TEXT NOT NULL, deployment TEXT, tier TEXT, is_stream INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL,
    is_estimated INTEGER NOT NULL, ttft_s REAL, tpot_s REAL, e2e_s REAL NOT NULL, is_slo_met INTEGER,
    cost_microusd INTEGER NOT NULL, attempts INTEGER NOT NULL, outcome TEXT NOT NULL, status INTEGER, error TEXT,
    generation INTEGER NOT NULL
) STRICT;
CREATE INDEX exchanges_at ON exchanges (at_s);
CREATE INDEX exchanges_of_owner ON exchanges (owner, at_s);
INSERT INTO exchanges VALUES (
    'old', 'r', 1.5, 'chat', 'beef', 'm', 'n', 'd', 'api', 1, 3, 1, 7, 0, 0.25, NULL, 1.0, NULL, 12, 2, 'completed', 200,
    NULL, 4
);
PRAGMA user_version = 1;
"""
