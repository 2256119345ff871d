import argparse
import contextlib
import csv
import io
import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from servery import cli
from servery.config.types import LedgerConfig
from servery.telemetry.ledger.database import open_database
from servery.telemetry.ledger.errors import LedgerError
from servery.telemetry.ledger.export import export
from servery.telemetry.ledger.query import GROUPS, Span, Sum, parse_moment, sums
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.schema import COLUMNS
from servery.telemetry.ledger.writer import Ledger
from tests.telemetry.ledger.rows import ROW

DAY_S = 86_400.0


def rows(count: int = 200) -> list[LedgerRow]:
    """Exchanges of three days by three keys, of which two thirds belong to tasks of several."""
    dice = random.Random(5)
    return [
        ROW._replace(
            id=f"id{at}", at_s=20_000 * DAY_S + at * 3 * DAY_S / count, key_id=dice.choice("abc"),
            owner=dice.choice([None, "ann"]), model=dice.choice(["m", "n"]), deployment=dice.choice([None, "x", "y"]),
            task=dice.choice([None, f"t{dice.randrange(20)}", f"t{dice.randrange(20)}"]),
            outcome=dice.choice(["completed", "completed", "failed", "refused"]), prompt_tokens=dice.randrange(10_000),
            cost_nanousd=dice.randrange(10**12), dearest_nanousd=dice.randrange(10**12),
            is_slo_met=dice.choice([None, True, False]), is_estimated=dice.random() < 0.2,
        )
        for at in range(count)
    ]  # fmt: skip


def kept(place: LedgerConfig, written: list[LedgerRow]) -> None:
    ledger = Ledger(place)
    ledger.start()
    for row in written:
        ledger.add(row)
    ledger.close()


def counted(group: tuple[str | None, ...], found: list[LedgerRow], last: set[str]) -> Sum:
    """The same by brute force."""
    ends = [row for row in found if row.id in last]
    return Sum(
        group=group, exchanges=len(found), completed=sum(row.outcome == "completed" for row in found),
        prompt_tokens=sum(row.prompt_tokens for row in found), cached_tokens=sum(row.cached_tokens for row in found),
        generated_tokens=sum(row.generated_tokens for row in found), extra_tokens=sum(row.extra_tokens for row in found),
        estimated=sum(row.is_estimated for row in found), cost_nanousd=sum(row.cost_nanousd for row in found),
        dearest_nanousd=sum(row.dearest_nanousd for row in found),
        slo_met=sum(row.is_slo_met is True for row in found), slo_missed=sum(row.is_slo_met is False for row in found),
        tasks=len(ends), successful_tasks=sum(row.outcome == "completed" for row in ends),
    )  # fmt: skip


def test_sums_by_every_grouping_are_those_of_counting_by_hand(place: LedgerConfig) -> None:
    written = rows()
    kept(place, written)
    span = Span(since_s=20_000 * DAY_S + 5_000, until_s=20_002 * DAY_S)
    asked = [row for row in written if span.since_s <= row.at_s < span.until_s]
    last = {(row.key_id, row.task or row.id): row.id for row in asked}
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        for by in ([], *([name] for name in GROUPS), ["day", "key", "model"]):
            groups: defaultdict[tuple[str | None, ...], list[LedgerRow]] = defaultdict(list)
            for row in asked:
                day = "2024-10-04" if row.at_s < 20_001 * DAY_S else "2024-10-05"
                groups[tuple(day if name == "day" else getattr(row, GROUPS[name]) for name in by)].append(row)
            found = sums(database, by, span)
            expected = [counted(group, each, set(last.values())) for group, each in groups.items()]
            assert {each.group: each for each in found} == {each.group: each for each in expected}
            keys = [(each.group[0] if by[:1] == ["day"] else "", -each.cost_nanousd) for each in found]
            assert keys == sorted(keys)  # type: ignore[type-var]


def test_a_task_that_needed_several_exchanges_has_cost_all_of_them(place: LedgerConfig) -> None:
    def at(name: str, task: str | None, outcome: str, cost: int) -> LedgerRow:
        return ROW._replace(id=name, at_s=float(cost), task=task, outcome=outcome, cost_nanousd=cost, dearest_nanousd=9)

    kept(place, [at("1", "t", "failed", 5), at("2", "t", "completed", 6), at("3", "u", "completed", 7),
                 at("4", "u", "failed", 8), at("5", None, "completed", 10)])  # fmt: skip
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        (found,) = sums(database, [], Span())
    assert (found.tasks, found.successful_tasks, found.cost_nanousd) == (3, 2, 36)
    assert (found.cost_per_successful_task_nanousd, found.saved_nanousd) == (18, 45 - 36)


def test_an_empty_ledger_has_nothing_in_it(place: LedgerConfig) -> None:
    kept(place, [])
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        assert sums(database, ["key"], Span()) == []
        assert sums(database, [], Span()) == [counted((), [], set())]
        assert sums(database, [], Span())[0].cost_per_successful_task_nanousd is None


def test_an_export_has_every_row_of_the_time_in_every_format(place: LedgerConfig, tmp_path: Path) -> None:
    written = [*rows(30), ROW._replace(id="bad", at_s=20_001 * DAY_S + 1, model="=cmd|' /C calc'!A0")]
    kept(place, written)
    span = Span(since_s=20_001 * DAY_S)
    asked = sorted((row for row in written if row.at_s >= span.since_s), key=lambda row: row.at_s)
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        out = io.StringIO()
        assert export(database, span, "csv", None, out) == len(asked)
        for name in ("csv", "jsonl", "parquet"):
            assert export(database, span, name, tmp_path / name, out) == len(asked)
        with pytest.raises(LedgerError, match=r"Parquet is no text; name a file with --out\."):
            export(database, span, "parquet", None, out)
    read = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert out.getvalue() == (tmp_path / "csv").read_text()
    assert [row["id"] for row in read] == [row.id for row in asked]
    assert [int(row["cost_nanousd"]) for row in read] == [row.cost_nanousd for row in asked]
    assert [row["model"] for row in read if row["id"] == "bad"] == ["'=cmd|' /C calc'!A0"]
    assert [json.loads(line) for line in (tmp_path / "jsonl").read_text().splitlines()] == [
        row._asdict() for row in asked
    ]
    table = pyarrow.parquet.read_table(tmp_path / "parquet")
    assert table.to_pylist() == [row._asdict() for row in asked]
    assert table.schema.names == list(COLUMNS)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["csv", "jsonl", "parquet"]


def test_parquet_is_written_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servery.telemetry.ledger.export._GROUP_ROWS", 7)
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    kept(place, rows(30))
    with contextlib.closing(open_database(place, is_read_only=True)) as database:
        export(database, Span(), "parquet", tmp_path / "out", io.StringIO())
    file = pyarrow.parquet.ParquetFile(tmp_path / "out")
    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (30, math.ceil(30 / 7))


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2026-11-21", 1_795_219_200.0),
        ("2026-11-21T08:00:00Z", 1_795_219_200.0 + 8 * 3600),
        ("2026-11-21T08:00:00", 1_795_219_200.0 + 8 * 3600),
        ("2026-11-21T08:00:00+02:00", 1_795_219_200.0 + 6 * 3600),
        ("7d", 1e9 - 7 * DAY_S),
        ("24h", 1e9 - DAY_S),
    ],
)
def test_times_are_days_moments_or_how_long_ago(given: str, moment: float) -> None:
    assert parse_moment(given, 1e9) == moment


@pytest.mark.parametrize("given", ["", "yesterday", "2026-13-01", "2026-02-30", "21.11.2026", "7", "2026-11-21T25:00"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="is no time; write 2026-11-21,"):
        parse_moment(given, 0.0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["ledger", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_report_says_in_dollars_what_was_spent_and_saved(
    place: LedgerConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(
        place, [ROW, ROW._replace(id="b", key_id="k2", cost_nanousd=2_000_000_499, is_slo_met=True, is_estimated=True)]
    )
    named = str(place.path) if place.url is None else place.url.reveal()
    code, out, _ = run(capsys, "report", named, "--by", "key")
    assert (code, [line.split() for line in out.splitlines()]) == (
        0,
        [
            ["key", "exchanges", "completed", "prompt", "cached", "generated", "cost", "saved", "SLO", "met", "tasks",
             "per", "success"],
            ["k2", "1", "1", "3~", "1", "7~", "$2.000000", "-$1.999980", "100.0%", "1/1", "$2.000000"],
            ["k1", "1", "1", "3", "1", "7", "$0.000012", "$0.000008", "-", "1/1", "$0.000012"],
        ],
    )  # fmt: skip
    (total,) = json.loads(run(capsys, "report", named, "--json")[1])["groups"]
    assert (total["exchanges"], total["cost_nanousd"], total["group"]) == (2, 2_000_012_844, {})
    file = tmp_path / "servery.yaml"
    file.write_text(f"server: {{ ledger: '{named}' }}\ndeployments: {{ a: {{ kind: embedded, model: amuse }} }}\n"
                    "models: { m: { deployments: [a] } }\n")  # fmt: skip
    assert json.loads(run(capsys, "report", str(file), "--json")[1])["groups"] == [total]
    assert run(capsys, "export", named)[1].splitlines()[0].split(",") == list(COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "none.sqlite"], 1, "there is no ledger at "),
        (["report", "mysql://h/d"], 1, "a ledger is kept in a file or at postgresql://, not at mysql://"),
        (["report", "postgresql://u:hunter2@:bad/d"], 1, "the ledger's address is not right; write postgresql://"),
        (["report", "postgresql://u:hunter2@127.0.0.1:1/d"], 1, "the ledger postgresql://127.0.0.1:1/d cannot be used"),
        (["report", "none.yaml"], 2, "the file cannot be read"),
        (["report", "--since", "tuesday"], 2, "'tuesday' is no time; write 2026-11-21"),
        (["report", "--by", "colour"], 2, "invalid choice: 'colour'"),
    ],
)
def test_what_cannot_be_asked_says_why_and_no_password(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert cli.main(["ledger", *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert "hunter2" not in said.err + said.out


def test_the_options_are_those_of_the_verbs() -> None:
    options: Any = cli.parser().parse_args(["ledger", "export"])
    assert isinstance(options, argparse.Namespace)
    assert (options.ledger, options.format, options.out, options.since) == ("servery-ledger.sqlite", "csv", None, None)
