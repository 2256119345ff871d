import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from servery.telemetry.ledger import Ledger, LedgerError, LedgerRow, read_rows

ROW = LedgerRow(
    id="a", request_id="r", at_s=1.5, api="chat", owner="beef", model="m", served_model="n", deployment="d", tier="api",
    is_stream=True, prompt_tokens=3, cached_tokens=1, generated_tokens=7, is_estimated=False, ttft_s=0.25, tpot_s=None,
    e2e_s=1.0, is_slo_met=None, cost_microusd=12, attempts=2, outcome="completed", status=200, error=None, generation=4,
)  # fmt: skip


def test_rows_are_read_as_they_were_written_after_it_was_closed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "folder" / "rows.sqlite")
    ledger.start()
    rows = [ROW, replace(ROW, id="b", at_s=2.0, is_slo_met=False, deployment=None, tier=None, ttft_s=None, error="x")]
    for row in rows:
        ledger.add(row)
    ledger.close()
    ledger.close()
    assert read_rows(tmp_path / "folder" / "rows.sqlite") == rows
    assert (ledger.written, ledger.lost, ledger.waiting) == (2, 0, 0)


def test_rows_are_on_disk_without_its_being_closed(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    ledger = Ledger(path)
    ledger.start()
    written = threading.Event()
    for at in range(2500):
        ledger.add(replace(ROW, id=str(at)))
    while not written.wait(0.01):
        if ledger.written == 2500:
            written.set()
    assert len(read_rows(path)) == 2500
    ledger.close()


def test_a_later_run_adds_to_the_rows_and_an_exchange_has_one_only(tmp_path: Path) -> None:
    for row in (ROW, replace(ROW, id="b"), replace(ROW, outcome="failed")):
        ledger = Ledger(tmp_path / "rows.sqlite")
        ledger.start()
        ledger.add(row)
        ledger.close()
    assert [(row.id, row.outcome) for row in read_rows(tmp_path / "rows.sqlite")] == [
        ("a", "completed"),
        ("b", "completed"),
    ]


def test_more_rows_than_may_wait_are_counted_as_lost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "rows.sqlite", max_waiting=3)
    for at in range(5):
        ledger.add(replace(ROW, id=str(at)))
    assert (ledger.waiting, ledger.lost) == (3, 2)
    ledger.close()  # it never began


def test_rows_that_the_disk_refuses_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.sqlite"
    ledger = Ledger(path)
    ledger.start()
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE exchanges RENAME TO elsewhere")
    assert not ledger._write([ROW])
    ledger.add(ROW)
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO exchanges")
    other.close()
    ledger.close()
    assert read_rows(path) == [ROW]


def test_a_file_that_is_no_ledger_of_this_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LedgerError, match=r"rows\.sqlite cannot be used: it is of version 99, and this Servery knows"):
        Ledger(path).start()
    path.write_bytes(b"no database at all, but a text of some length" * 30)
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger(path).start()
    with pytest.raises(LedgerError, match="cannot be read"):
        read_rows(tmp_path / "none.sqlite")
