"""The file of one run: a header line, then one line per task as it is answered, so that a killed run can go on.

Only whole lines count: what a kill has torn at the end is cut off when the run goes on. A line with an error is not an
answer; going on asks that task again, and its last line is the one that counts.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from servery.evals.computed import Computed
from servery.evals.errors import ResultFileError
from servery.evals.fingerprint import Fingerprint

SCHEMA = "servery.eval.run/1"
T = TypeVar("T")


class TaskSet(msgspec.Struct, frozen=True):
    """Which tasks: the name and hash of their file, and how many of each stratum it has."""

    name: str
    sha256: str
    strata: dict[str, int]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of whom. `target` is an address or a checkpoint's folder; `checkpoint` None: files unknown.

    `settings` is what else was asked that decides the answers (data type, judge), `computed` what that came to (None:
    a server does not say), `provenance` where and when it ran.
    """

    schema: str = SCHEMA
    tasks: TaskSet
    target: str
    model: str
    checkpoint: Fingerprint | None = None
    settings: dict[str, Any] = {}
    computed: Computed | None = None
    version: str
    provenance: dict[str, Any] = {}

    def differs(self, other: "Header") -> list[str]:
        """The names of the fields, with those inside them, in which two runs are not of the same thing."""
        return list(_differing("", msgspec.to_builtins(self), msgspec.to_builtins(other)))


def _differing(name: str, one: Any, other: Any) -> Iterator[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        yield from [name] if one != other else []
        return
    for key in dict.fromkeys([*one, *other]):
        inner = f"{name}.{key}" if name else str(key)
        if inner != "provenance":
            yield from _differing(inner, one.get(key), other.get(key))


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task's outcome; `is_right` is None where there was an `error` instead of an answer or of a verdict."""

    id: str
    stratum: str
    is_right: bool | None = None
    text: str = ""
    finish_reason: str | None = None
    logprobs: list[float] | None = None
    verdict: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """A file of results as read: the last line of each task, by its id, in the order of the file."""

    path: Path
    sha256: str
    header: Header
    items: dict[str, Item]
    whole_bytes: int = field(compare=False)

    @property
    def answered(self) -> dict[str, Item]:
        """The items that have an answer and a verdict."""
        return {key: item for key, item in self.items.items() if item.is_right is not None}

    @property
    def num_missing(self) -> dict[str, int]:
        """Per stratum, how many tasks have no answer: not asked, or failed."""
        missing = dict(self.header.tasks.strata)
        for item in self.answered.values():
            missing[item.stratum] = missing.get(item.stratum, 0) - 1
        return missing


def read(path: Path) -> Results:
    """Read a file of results. Raises `ResultFileError` naming the line, `OSError` if it cannot be read."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.split(b"\n")
    if not whole:
        raise ResultFileError(f"{path} has no header; it is no file that `servery eval run` has written.")
    header = _decode(lines[0], Header, f"{path}:1")
    if header.schema != SCHEMA:
        raise ResultFileError(f"{path}:1: `schema` is {header.schema!r}; this version reads {SCHEMA!r}.")
    items: dict[str, Item] = {}
    for number, line in enumerate(lines[1:-1], start=2):
        item = _decode(line, Item, f"{path}:{number}")
        items[item.id] = item
    return Results(path, hashlib.sha256(whole).hexdigest(), header, items, len(whole))


def _decode(line: bytes, kind: type[T], place: str) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ResultFileError(f"{place}: {error}; it is no line that `servery eval run` has written.") from None


class Writer:
    """Appends to a file of results that no other run writes to at the same time; use it as a context."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open or create the file. Raises `ResultFileError` if it belongs to another run or is being written."""
        self._file: BinaryIO = path.open("ab")
        try:
            self._lock(path)
            self.done = self._begin(path, header)
        except BaseException:
            self._file.close()
            raise

    def write(self, item: Item) -> None:
        """Add one outcome; it is in the file when this returns."""
        self._append(item)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResultFileError(
                f"{path} is being written by another run; wait for it or name another --out."
            ) from None

    def _begin(self, path: Path, header: Header) -> dict[str, Item]:
        """The items answered before; a new file gets its header."""
        if b"\n" not in path.read_bytes():
            self._file.truncate(0)
            self._append(header)
            return {}
        before = read(path)
        if changed := before.header.differs(header):
            raise ResultFileError(
                f"{path} is of another run ({', '.join(changed)} differ); name another --out, or move it away."
            )
        self._file.truncate(before.whole_bytes)
        return before.answered

    def _append(self, line: Header | Item) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()


def by_stratum(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each stratum, strata in the order of their first item."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.stratum, []).append(item)
    return found
