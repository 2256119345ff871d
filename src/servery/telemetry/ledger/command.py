"""`servery ledger` on the command line: what was used and spent, the rows in a file, what administrators did."""

import argparse
import contextlib
import datetime
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servery.config.ledger_place import ledger_place
from servery.config.load import load_config
from servery.config.types import LedgerConfig
from servery.telemetry.ledger import tables
from servery.telemetry.ledger.audit import Entry, broken_at, entries
from servery.telemetry.ledger.database import Database, open_database
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.telemetry.ledger.export import FORMATS
from servery.telemetry.ledger.export import export as export_rows
from servery.telemetry.ledger.query import GROUPS, Span, Sum, parse_moment, sums

DEFAULT_PLACE = "servery-ledger.sqlite"
_BROKEN = 1


def report(options: argparse.Namespace) -> int:
    """Sum up a ledger: exchanges, tokens, money, SLOs, and what a successful task has cost.

    LEDGER is an SQLite file, a postgresql:// address, or a configuration (.yaml) that names one. A task is what clients
    call one with the header `x-servery-task`, else each exchange; it has succeeded if its last exchange was completed.
    Saved is what the same tokens would have cost more at the dearest deployment of each model.

    Example:
      servery ledger report --since 7d
      servery ledger report servery.yaml --by key --by model --since 2026-11-01 --until 2026-12-01
    """
    by, span = options.by or [], _span(options)
    with _reading(options.ledger) as database:
        found, lost = sums(database, by, span), _lost(database, span)
    if options.json:
        print(json.dumps({"groups": [_told(each, by) for each in found], "lost_rows": lost[0], "killed_runs": lost[1]}))
        return 0
    print(_table([_heads(by), *(_cells(each) for each in found)]))
    if lost[1] or lost[0]:
        print(
            f"\nNot in it: {lost[0]} rows that were lost, and {lost[2]} exchanges of {lost[1]} runs that were killed."
        )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the rows of a ledger to a file: CSV, JSON lines, or Parquet (which needs `pip install 'servery[parquet]'`).

    Without --out they go to standard output. In CSV a text that a spreadsheet would take for a formula has a ' in front.

    Example:
      servery ledger export --format csv --since 2026-11-01 > november.csv
      servery ledger export servery.yaml --format parquet --out ledger.parquet
    """
    with _reading(options.ledger) as database:
        count = export_rows(database, _span(options), options.format, options.out, sys.stdout)
    print(f"{count} rows", file=sys.stderr)
    return 0


def audit(options: argparse.Namespace) -> int:
    """List what administrators did, and check that nothing of it was changed.

    Each entry is sealed with the one before it. The exit code is 1 when the chain is broken.

    Example:
      servery ledger audit --since 30d
    """
    with _reading(options.ledger) as database:
        broken = broken_at(entries(database))
        span = _span(options)
        found = list(entries(database, span.since_s, span.until_s))
    if options.json:
        print(json.dumps({"entries": [each._asdict() for each in found], "broken_at": broken}))
    else:
        print(_table([["seq", "at", "who", "action", "subject", "from", "outcome"], *map(_entry, found)]))
    if broken is not None:
        print(
            f"The log is not what was written: entry {broken} was changed, or one before it is gone.", file=sys.stderr
        )
    return 0 if broken is None else _BROKEN


def add_report(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery ledger report`."""
    _add_common(verb)
    verb.add_argument("--by", action="append", choices=tuple(GROUPS), help="sum up by this; repeatable; else the total")
    verb.add_argument("--json", action="store_true", help="print JSON instead of a table; money in nano-dollars")


def add_export(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery ledger export`."""
    _add_common(verb)
    verb.add_argument("--format", choices=tuple(FORMATS), default="csv", help="what to write")
    verb.add_argument("--out", type=Path, metavar="FILE", help="where to; else standard output")


def add_audit(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery ledger audit`."""
    _add_common(verb)
    verb.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "ledger",
        nargs="?",
        default=DEFAULT_PLACE,
        metavar="LEDGER",
        help="a file, postgresql://..., or a .yaml that says",
    )
    for name, text in (("--since", "from this time on"), ("--until", "before this time")):
        verb.add_argument(name, type=_moment, metavar="TIME", help=f"{text}: 2026-11-21, with T08:00:00Z, or 7d ago")


def _moment(given: str) -> float:
    try:
        return parse_moment(given, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _span(options: argparse.Namespace) -> Span:
    given = {"since_s": options.since, "until_s": options.until}
    return Span(**{name: value for name, value in given.items() if value is not None})


@contextlib.contextmanager
def _reading(given: str) -> Iterator[Database]:
    """The ledger that was named; raises `LedgerError`, `ConfigError`."""
    with contextlib.closing(open_database(_place(given), is_read_only=True)) as database:
        try:
            tables.check(database, is_read_only=True)
            yield database
        except DatabaseFailure as failure:
            raise LedgerError(f"the ledger {database.shown} cannot be read: {failure}.") from failure


def _place(given: str) -> LedgerConfig:
    if given.endswith((".yaml", ".yml")):
        found = load_config(Path(given)).ledger
        if found is None:
            raise LedgerError(f"{given} keeps no ledger; say where with server: ledger.")
        return found
    try:
        return ledger_place(given, Path.cwd())
    except ValueError as error:
        raise LedgerError(f"{error}.") from error


def _lost(database: Database, span: Span) -> tuple[int, int, int]:
    """Rows that runs of the time have lost, runs of it that were killed, and what these were in the middle of."""
    sql = (
        "SELECT CAST(COALESCE(sum(rows_lost), 0) AS BIGINT), count(*) FILTER (WHERE is_killed), "
        "CAST(COALESCE(sum(under_way), 0) AS BIGINT) FROM runs "
        "WHERE COALESCE(ended_s, 1e12) >= ? AND started_s < ?"
    )
    rows, killed, under_way = database.execute(sql, (span.since_s, span.until_s))[0]
    return int(rows), int(killed), int(under_way)


def _told(each: Sum, by: Sequence[str]) -> dict[str, Any]:
    values = asdict(each)
    values["group"] = dict(zip(by, each.group, strict=True))
    values["saved_nanousd"] = each.saved_nanousd
    values["cost_per_successful_task_nanousd"] = each.cost_per_successful_task_nanousd
    return values


def _heads(by: Sequence[str]) -> list[str]:
    numbers = [
        "exchanges",
        "completed",
        "prompt",
        "cached",
        "generated",
        "cost",
        "saved",
        "SLO met",
        "tasks",
        "per success",
    ]
    return [*by, *numbers]


def _cells(each: Sum) -> list[str]:
    judged = each.slo_met + each.slo_missed
    per_task = each.cost_per_successful_task_nanousd
    return [
        *("-" if value is None else str(value) for value in each.group),
        str(each.exchanges),
        str(each.completed),
        str(each.prompt_tokens) + ("~" if each.estimated else ""),
        str(each.cached_tokens),
        str(each.generated_tokens) + ("~" if each.estimated else ""),
        _dollars(each.cost_nanousd),
        _dollars(each.saved_nanousd),
        f"{100 * each.slo_met / judged:.1f}%" if judged else "-",
        f"{each.successful_tasks}/{each.tasks}",
        "-" if per_task is None else _dollars(per_task),
    ]


def _dollars(nanousd: int) -> str:
    """To the millionth of a dollar."""
    micro = (abs(nanousd) + 500) // 1000
    return f"{'-' if nanousd < 0 else ''}${micro // 10**6}.{micro % 10**6:06d}"


def _entry(entry: Entry) -> list[str]:
    at = datetime.datetime.fromtimestamp(entry.at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [str(entry.seq), at, *(each or "-" for each in entry[2:7])]


def _table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
