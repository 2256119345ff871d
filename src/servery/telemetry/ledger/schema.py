"""The ledger's tables, in the words of both databases, and how an earlier form of them becomes this one."""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servery.telemetry.ledger.row import LedgerRow

VERSION = 3
COLUMNS = LedgerRow._fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a database says things.

    `types` are its types of columns, `serial` that of a whole number which is a key, `table` what stands behind a table's
    definition. `day` is the day (UTC, YYYY-MM-DD) of `{column}`, a Unix time. `append_only` makes the table `audit`
    refuse to be changed.
    `whole` is the whole number at or below `{value}`, which is 0 or more.
    """

    types: Mapping[type, str]
    serial: str
    day: str
    whole: str
    append_only: Sequence[str]
    table: str = ""


def tables(dialect: Dialect) -> Sequence[str]:
    """The statements that make what is not there yet."""
    text, real, whole, flag = (dialect.types[kind] for kind in (str, float, int, bool))
    return (
        f"CREATE TABLE IF NOT EXISTS exchanges ({', '.join(_columns(dialect))}){dialect.table}",
        "CREATE INDEX IF NOT EXISTS exchanges_at ON exchanges (at_s)",
        "CREATE INDEX IF NOT EXISTS exchanges_of_key ON exchanges (key_id, at_s)",
        (
            f"CREATE TABLE IF NOT EXISTS runs (id {text} PRIMARY KEY, host {text} NOT NULL, pid {whole} NOT NULL, "
            f"started_s {real} NOT NULL, ended_s {real}, rows_written {whole} NOT NULL, rows_lost {whole} NOT NULL, "
            f"under_way {whole} NOT NULL, is_killed {flag} NOT NULL){dialect.table}"
        ),
        (
            f"CREATE TABLE IF NOT EXISTS audit (seq {dialect.serial} PRIMARY KEY, at_s {real} NOT NULL, who {text} NOT NULL, "
            f"action {text} NOT NULL, subject {text} NOT NULL, source {text} NOT NULL, outcome {text} NOT NULL, "
            f"digest {text} NOT NULL){dialect.table}"
        ),
        (
            f"CREATE TABLE IF NOT EXISTS slo_minutes (minute {whole} NOT NULL, model {text} NOT NULL, good {whole} NOT NULL, "
            f"missed {whole} NOT NULL, PRIMARY KEY (minute, model)){dialect.table}"
        ),
    )


def _columns(dialect: Dialect) -> list[str]:
    hints = typing.get_type_hints(LedgerRow)
    return [_column(name, hints[name], dialect) for name in COLUMNS]


def _column(name: str, hint: Any, dialect: Dialect) -> str:
    is_null = isinstance(hint, types.UnionType)
    kind = typing.get_args(hint)[0] if is_null else hint
    rest = " PRIMARY KEY" if name == "id" else "" if is_null else " NOT NULL"
    return f"{name} {dialect.types[kind]}{rest}"


# From each earlier version to the next, before what is missing is made. Version 1 was SQLite's only, and had whole
# micro-dollars.
MIGRATIONS: Mapping[int, Sequence[str]] = {
    1: (
        "ALTER TABLE exchanges RENAME COLUMN owner TO key_id",
        "ALTER TABLE exchanges RENAME COLUMN cost_microusd TO cost_nanousd",
        "UPDATE exchanges SET cost_nanousd = 1000 * cost_nanousd",
        *(
            f"ALTER TABLE exchanges ADD COLUMN {column}"
            for column in (
                "owner TEXT",
                "task TEXT",
                "reasoning_tokens INTEGER NOT NULL DEFAULT 0",
                "extra_tokens INTEGER NOT NULL DEFAULT 0",
                "queue_s REAL NOT NULL DEFAULT 0",
                "dearest_nanousd INTEGER NOT NULL DEFAULT 0",
                "cache TEXT",
                "route TEXT",
            )
        ),
        "UPDATE exchanges SET dearest_nanousd = cost_nanousd",
        "DROP INDEX IF EXISTS exchanges_of_owner",
    ),
    2: (),
}
# And after it: the last 31 days by minute, of what earlier versions wrote.
REFILLS: Mapping[int, Sequence[str]] = {
    2: (
        (
            "INSERT INTO slo_minutes (minute, model, good, missed) SELECT CAST((at_s + e2e_s - 30) / 60 AS BIGINT), served_model, "
            "sum(CASE WHEN is_slo_met THEN 1 ELSE 0 END), sum(CASE WHEN is_slo_met THEN 0 ELSE 1 END) FROM exchanges "
            "WHERE is_slo_met IS NOT NULL AND at_s >= (SELECT max(at_s) FROM exchanges) - 2678400 GROUP BY 1, 2"
        ),
    ),
}
