import contextlib
import sqlite3
from pathlib import Path

from servery.config.types import LedgerConfig
from servery.telemetry.ledger import tables
from servery.telemetry.ledger.database import open_database
from servery.telemetry.ledger.judged import LedgerCounts
from servery.telemetry.ledger.writer import Ledger
from servery.telemetry.slo import Count
from tests.telemetry.ledger.rows import ROW

NOW_S = 1_800_000_000.0
RUN = tables.Run(id="r", host="h", pid=1, started_s=NOW_S)


def row(name: str, ago_s: float, is_met: bool | None, model: str = "m") -> tables.LedgerRow:
    return ROW._replace(id=name, at_s=NOW_S - ago_s - 1.0, e2e_s=1.0, is_slo_met=is_met, served_model=model)


def test_windows_are_read_from_what_earlier_runs_wrote(place: LedgerConfig) -> None:
    for run in range(2):
        ledger = Ledger(place, wall=lambda: NOW_S)
        ledger.start()
        for ago_s in (2_000_000, 100_000, 10_000, 3_000, 1_000, 100):
            ledger.add(row(f"{run}-{ago_s}", ago_s, is_met=ago_s != 1_000))
        ledger.add(row(f"{run}-x", 5, is_met=None))
        ledger.add(row(f"{run}-n", 5, is_met=True, model="n:sql"))
        ledger.close()
    assert LedgerCounts(place, lambda: NOW_S).read() == {
        "m": {
            "5m": Count(2, 0), "30m": Count(2, 2), "1h": Count(4, 2), "6h": Count(6, 2), "3d": Count(8, 2), "30d": Count(10, 2),
        },
        "n:sql": dict.fromkeys(("5m", "30m", "1h", "6h", "3d", "30d"), Count(2, 0)),
    }  # fmt: skip


def test_long_windows_take_a_hundredth_of_the_time_and_short_ones_are_always_read(place: LedgerConfig) -> None:
    with contextlib.closing(open_database(place)) as database:
        tables.prepare(database)
        tables.begin(database, RUN)
        clock = iter([0.0, 0.5, 50.4, 50.5, 50.5])  # it takes half a second
        counts = LedgerCounts(place, lambda: NOW_S, lambda: next(clock))
        assert counts.read() == {}
        tables.append(database, [row("a", 0, is_met=True)], "r", written=1, lost=0)
        assert counts.read()["m"] == dict.fromkeys(("5m", "30m", "1h", "6h"), Count(1, 0))
        assert counts.read()["m"] == dict.fromkeys(("5m", "30m", "1h", "6h", "3d", "30d"), Count(1, 0))


def test_rows_that_the_database_took_without_saying_so_count_once(place: LedgerConfig) -> None:
    rows = [row(str(at), 0, is_met=True) for at in range(5)]
    with contextlib.closing(open_database(place)) as database:
        tables.prepare(database)
        tables.begin(database, RUN)
        tables.append(database, rows[:3], "r", written=3, lost=0)
        tables.append(database, rows, "r", written=5, lost=0)  # the first three again: nobody was told of them
        tables.prune(database, NOW_S + 1, 10)
        assert tables.read_rows(database) == []
    assert LedgerCounts(place, lambda: NOW_S).read()["m"]["30d"] == Count(5, 0)


def test_minutes_that_no_window_reaches_go_with_the_next_start(place: LedgerConfig) -> None:
    with contextlib.closing(open_database(place)) as database:
        tables.prepare(database)
        tables.begin(database, RUN)
        old = 70 * 86_400
        tables.append(database, [row("a", old, is_met=True), row("b", 0, is_met=True)], "r", written=2, lost=0)
        tables.begin(database, tables.Run(id="later", host="h", pid=1, started_s=NOW_S))
        assert len(database.execute("SELECT minute FROM slo_minutes")) == 1


def test_a_ledger_of_the_second_version_has_its_minutes_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    place = LedgerConfig(path=path)
    with contextlib.closing(open_database(place)) as database:
        tables.prepare(database)
        tables.begin(database, RUN)
        rows = [
            row("a", 3_000_000, is_met=True),
            row("b", 50, is_met=True),
            row("c", 40, is_met=False),
            row("d", 1, None),
        ]
        tables.append(database, rows, "r", written=4, lost=0)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE slo_minutes; PRAGMA user_version = 2")
    ledger = Ledger(place, wall=lambda: NOW_S)
    ledger.start()
    ledger.close()
    assert LedgerCounts(place, lambda: NOW_S).read()["m"]["5m"] == Count(1, 1)
    assert LedgerCounts(place, lambda: NOW_S).read()["m"]["30d"] == Count(1, 1)
