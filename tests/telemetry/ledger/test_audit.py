import contextlib
import json
import logging
from pathlib import Path

import pytest

from servery import cli
from servery.config.types import LedgerConfig
from servery.telemetry.ledger.audit import Act, AuditLog, Entry, broken_at, entries
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.errors import DatabaseFailure
from servery.telemetry.ledger.tables import prepare

ACTS = [
    Act(who="admin", action="POST /sleep", subject="m", source="10.0.0.1"),
    Act(who="local", action="reload", outcome="refused"),
    Act(who="admin", action="POST /v1/models/load", subject="two\nlines \ud800" + "x" * 1000),
]


def opened(place: LedgerConfig) -> "contextlib.closing[Database]":
    return contextlib.closing(open_database(place))


def recorded(place: LedgerConfig) -> list[Entry]:
    for at, act in enumerate(ACTS):
        assert AuditLog(place, lambda at=at: 10.0 + at).record(act)
    with opened(place) as database:
        return list(entries(database))


def test_acts_are_written_down_in_their_order_and_sealed(place: LedgerConfig) -> None:
    found = recorded(place)
    assert [entry[:7] for entry in found] == [
        (1, 10.0, "admin", "POST /sleep", "m", "10.0.0.1", "done"),
        (2, 11.0, "local", "reload", "", "", "refused"),
        (3, 12.0, "admin", "POST /v1/models/load", "two\\nlines \\ud800" + "x" * 489, "", "done"),
    ]
    assert broken_at(found) is None


@pytest.mark.parametrize("change", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit WHERE seq = 2"])
def test_the_database_refuses_to_change_or_delete_an_entry(place: LedgerConfig, change: str) -> None:
    found = recorded(place)
    with opened(place) as database:
        with pytest.raises(DatabaseFailure, match="the audit log is append-only"):
            database.execute(change)
        assert list(entries(database)) == found


@pytest.mark.parametrize("word", ["INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
def test_an_entry_cannot_be_replaced_in_a_file_either_also_in_one_from_before(tmp_path: Path, word: str) -> None:
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    found = recorded(place)
    with opened(place) as database:
        database.execute("DROP TRIGGER audit_refuses_insert")  # as an earlier Servery has left it
        prepare(database)
        with pytest.raises(DatabaseFailure, match="the audit log is append-only"):
            database.execute(f"{word} INTO audit VALUES (2, 0, 'nobody', '', '', '', '', '')")
        assert list(entries(database)) == found
    assert AuditLog(place).record(ACTS[0])


@pytest.mark.parametrize("field", Entry._fields)
def test_whoever_gets_around_that_is_found_out(tmp_path: Path, field: str) -> None:
    found = recorded(LedgerConfig(path=tmp_path / "rows.sqlite"))
    changed = found[1]._replace(**{field: getattr(found[1], field) * 2 or "x"})
    assert broken_at([found[0], changed, found[2]]) == 2
    assert broken_at([found[0], found[2]]) == 2
    assert broken_at(found[1:]) == 1


def test_the_command_lists_the_entries_and_fails_where_the_chain_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    recorded(place)
    arguments = ["ledger", "audit", str(place.path), "--since", "1970-01-01T00:00:11Z"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["2", "1970-01-01T00:00:11Z", "local", "reload", "-", "-", "refused"]
    with opened(place) as database:
        database.execute("DROP TRIGGER audit_refuses_update")
        database.execute("UPDATE audit SET outcome = 'done' WHERE seq = 2")
    assert cli.main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    assert (json.loads(said.out)["broken_at"], len(json.loads(said.out)["entries"])) == (2, 2)
    assert "entry 2 was changed" in said.err


def test_without_a_ledger_or_without_its_disk_an_act_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert not AuditLog().record(ACTS[0])
    (tmp_path / "file").touch()
    assert not AuditLog(LedgerConfig(path=tmp_path / "file" / "rows.sqlite")).record(ACTS[0])
    assert caplog.text.count("admin did POST /sleep (m) from 10.0.0.1: done") == 2
    assert "has not taken the last act" in caplog.text


def test_entries_come_by_many_writers_one_after_the_other(place: LedgerConfig) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with opened(place) as database:
        prepare(database)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(AuditLog(place).record, ACTS * 4))
    with opened(place) as database:
        found = list(entries(database))
    assert (len(found), broken_at(found)) == (12, None)
