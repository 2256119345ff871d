"""Readers of the public request traces, told apart by their columns.

- Azure LLM inference 2023 and 2024 (AzurePublicDataset, CC-BY 4.0): CSV, `TIMESTAMP,ContextTokens,GeneratedTokens`.
- BurstGPT (CC-BY 4.0): CSV, `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`, some with
  `Session ID` and `Elapsed time`; a response of 0 tokens is a request that failed, and is left out.
- Mooncake, FAST'25 (Apache-2.0): JSON lines, `timestamp` in milliseconds, `input_length`, `output_length`, and
  `hash_ids`, one name for each 512 tokens of the prompt: equal names are equal text.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson

from servery.bench.errors import BadTrace
from servery.bench.traces.request import TraceRequest

MOONCAKE_BLOCK = 512
MOST_TOKENS = 10_000_000  # of one request: a number beyond any model's context is a mistake in the file
_FORMATS = "Azure LLM (TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT and Mooncake (JSON lines)"

Row = Mapping[str, str]


def read_trace(path: Path) -> list[TraceRequest]:
    """The requests of a trace file, by time, the first at 0; `.gz` is read as it is.

    Raises `BadTrace` with the line for what is no request, and `OSError`.
    """
    with _opened(path) as file:
        try:
            first = file.readline()
            rest = _from_start(first, file)
            rows = _mooncake(rest, path) if first.lstrip().startswith("{") else _table(rest, path)
            requests = sorted(rows, key=lambda one: one.at_s)
        except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
            raise BadTrace(f"{path} is not a trace: {error}.") from None
    if not requests:
        raise BadTrace(f"{path} has no request in it.")
    return [_since(one, requests[0].at_s) for one in requests]


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _from_start(first: str, file: TextIO) -> Iterator[str]:
    yield first
    yield from file


def _since(one: TraceRequest, start_s: float) -> TraceRequest:
    return TraceRequest(one.at_s - start_s, one.input_tokens, one.output_tokens, one.blocks, session=one.session)


def _table(lines: Iterable[str], path: Path) -> Iterator[TraceRequest]:
    reader = csv.DictReader(lines)
    columns = set(reader.fieldnames or ())
    read: Callable[[Row], TraceRequest | None]
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= columns:
        read = _azure
    elif {"Timestamp", "Request tokens", "Response tokens"} <= columns:
        read = _burstgpt
    else:
        raise BadTrace(f"{path} has the columns {', '.join(sorted(columns)) or 'none'}; known are {_FORMATS}.")
    for number, row in enumerate(reader, start=2):
        try:
            request = read(row)
        except (ValueError, TypeError) as error:
            raise BadTrace(f"{path}, line {number}: {error}.") from None
        if request is not None:
            yield request


def _azure(row: Row) -> TraceRequest:
    # Seven digits of a second, and a time zone in the files of 2024 alone: both are cut, all rows have the same.
    stamp = datetime.fromisoformat(str(row["TIMESTAMP"]).removesuffix("+00:00")[:26]).replace(tzinfo=UTC)
    return TraceRequest(stamp.timestamp(), _tokens(row["ContextTokens"]), _tokens(row["GeneratedTokens"]))


def _burstgpt(row: Row) -> TraceRequest | None:
    output = _tokens(row["Response tokens"])
    if output == 0:
        return None
    session = row.get("Session ID") or None
    return TraceRequest(_time_s(row["Timestamp"]), _tokens(row["Request tokens"]), output, session=session)


def _mooncake(lines: Iterable[str], path: Path) -> Iterator[TraceRequest]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = orjson.loads(line)
            yield TraceRequest(
                _time_s(row["timestamp"]) / 1e3,
                _tokens(row["input_length"]),
                _tokens(row["output_length"]),
                tuple(int(name) for name in row.get("hash_ids", ())),
                MOONCAKE_BLOCK,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise BadTrace(f"{path}, line {number} is no request of a Mooncake trace: {error}.") from None


def _time_s(value: object) -> float:
    time = float(str(value))
    if not math.isfinite(time):
        raise ValueError(f"{value} is no time")
    return time


def _tokens(value: object) -> int:
    try:
        count = int(str(value))
    except ValueError:
        count = -1
    if not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"{value!r} is no number of tokens; it must be from 0 to {MOST_TOKENS}")
    return count
