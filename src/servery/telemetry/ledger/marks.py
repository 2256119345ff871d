"""How far a run has come, in memory that outlives its process: so the next start knows what a kill has lost.

A file of two counters is mapped into memory: exchanges that have begun, and rows that were handed to the ledger. To
count is to write eight bytes of memory; when the process is killed the system keeps them.
How many rows were written stands in the ledger itself, put there in one step with the rows. The file is locked as long
as its process lives: one that nobody locks was left by a process that did not come to its end.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BYTES = 16
_BEGUN, _ROWS = range(2)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run had counted when it was seen last."""

    begun: int
    rows: int


class Marks:
    """The counters of this run, in `folder`, under the run's id; `close` takes them away. Raises `OSError`."""

    def __init__(self, folder: Path, prefix: str, run: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{prefix}{run}"
        fresh = folder / f".new-{run}"
        self._file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.truncate(self._file, _BYTES)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        fresh.rename(self._path)  # nobody sees it before it is locked
        self._memory = mmap.mmap(self._file, _BYTES)
        self._counts = memoryview(self._memory).cast("Q")

    def begin(self) -> None:
        """An exchange has begun."""
        self._counts[_BEGUN] += 1

    def row(self) -> None:
        """A row was handed over."""
        self._counts[_ROWS] += 1

    @property
    def counts(self) -> Counts:
        """So far."""
        return Counts(*self._counts)

    def close(self, *, is_kept: bool = False) -> None:
        """Let go; the file is taken away unless the next start is to read it."""
        self._counts.release()
        self._memory.close()
        if not is_kept:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def left_behind(folder: Path, prefix: str) -> Iterator[tuple[str, Counts]]:
    """The runs that did not come to their end, by their ids; each is told once, and its file taken away then."""
    for path in sorted(folder.glob(f"{prefix}*")):
        counts = _taken(path)
        if counts is not None:
            yield path.name.removeprefix(prefix), counts


def _taken(path: Path) -> Counts | None:
    """What stands in a file that nobody holds; None if its process lives, or somebody else has taken it."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink == 0:
            return None
        data = os.pread(file, _BYTES, 0)
        path.unlink(missing_ok=True)
        return Counts(*memoryview(data).cast("Q")) if len(data) == _BYTES else None
    except BlockingIOError:
        return None
    finally:
        os.close(file)
