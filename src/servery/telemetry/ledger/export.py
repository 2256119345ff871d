"""A ledger's rows in a file of their own: CSV, JSON lines, or Parquet. A few rows are in memory at a time."""

import contextlib
import csv
import itertools
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from servery.telemetry.ledger.database import Database
from servery.telemetry.ledger.errors import LedgerError
from servery.telemetry.ledger.query import Span
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.ledger.schema import COLUMNS
from servery.telemetry.ledger.tables import row_of

_GROUP_ROWS = 10_000
# What a spreadsheet would compute. Names of models and tasks come from clients.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(database: Database, span: Span, format_name: str, path: Path | None, stdout: IO[str]) -> int:
    """Write the rows of a time, the oldest first, to `path`, or `stdout` for None; returns how many there were.

    The file is there when it is whole. Raises `LedgerError`, `DatabaseFailure`, `OSError`, `KeyError` for a format that
    is none of `FORMATS`.
    """
    write = FORMATS[format_name]
    if path is None:
        if write is _parquet:
            raise LedgerError("Parquet is no text; name a file with --out.")
        return _text(write, rows(database, span), stdout)
    partial = path.with_name(f".{path.name}.part")
    try:
        count = _to_file(write, rows(database, span), partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def rows(database: Database, span: Span) -> Iterator[LedgerRow]:
    """The rows of a time, the oldest first."""
    sql = f"SELECT {', '.join(COLUMNS)} FROM exchanges WHERE at_s >= ? AND at_s < ? ORDER BY at_s, id"  # noqa: S608
    return map(row_of, database.stream(sql, (span.since_s, span.until_s)))


def _to_file(write: Callable[[Any, Iterator[LedgerRow]], int], found: Iterator[LedgerRow], path: Path) -> int:
    if write is _parquet:
        return write(path, found)
    with path.open("w", encoding="utf-8", newline="") as file:
        return write(file, found)


def _text(write: Callable[[Any, Iterator[LedgerRow]], int], found: Iterator[LedgerRow], stdout: IO[str]) -> int:
    return write(stdout, found)


def _csv(file: IO[str], found: Iterator[LedgerRow]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for count, row in enumerate(found, 1):  # noqa: B007 - the last one is how many there are
        writer.writerow([_cell(value) for value in row])
    return count


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _jsonl(file: IO[str], found: Iterator[LedgerRow]) -> int:
    count = 0
    for count, row in enumerate(found, 1):  # noqa: B007
        file.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
    return count


def _parquet(path: Path, found: Iterator[LedgerRow]) -> int:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        message = "Parquet needs pyarrow, which is not installed; pip install 'servery[parquet]' brings it."
        raise LedgerError(message) from error
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([pyarrow.field(name, kinds[kind], is_null) for name, kind, is_null in _fields()])
    count = 0
    with contextlib.closing(pyarrow.parquet.ParquetWriter(path, schema, compression="zstd")) as writer:
        while group := list(itertools.islice(found, _GROUP_ROWS)):
            writer.write_table(pyarrow.table([list(column) for column in zip(*group, strict=True)], schema=schema))
            count += len(group)
    return count


def _fields() -> Sequence[tuple[str, type, bool]]:
    """Each column's name and type, and whether it may be empty."""
    hints = typing.get_type_hints(LedgerRow)
    return [
        (name, (typing.get_args(hints[name]) or (hints[name],))[0], bool(typing.get_args(hints[name])))
        for name in COLUMNS
    ]


FORMATS: Mapping[str, Callable[[Any, Iterator[LedgerRow]], int]] = MappingProxyType(
    {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
)
