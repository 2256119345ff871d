"""The results of one batch as they are collected: appended line by line, taken up again after a crash."""

import contextlib
import os
from pathlib import Path

import msgspec

from servery.batch.disk import to_append, write_all
from servery.batch.room import Room


class _Named(msgspec.Struct):
    custom_id: str


class Results:
    """Lines of a file; `done` are the custom ids of the requests that it has, those of an earlier run included.

    A last line that a crash cut short is removed: its request is answered again. What an earlier run wrote is counted
    in `room` already.
    """

    def __init__(self, path: Path, room: Room) -> None:
        """Raises `OSError` when the file cannot be used."""
        self.path = path
        self.done: set[str] = set()
        self._room = room
        self._size_bytes = 0
        self._fault: OSError | None = None
        self._file = to_append(path)  # what was not taken must not come later
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def add(self, custom_id: str, line: bytes) -> None:
        """Append a line, which ends in a newline; a crash of this process loses none, one of the machine perhaps the last.

        Raises `NoRoom`, and `OSError` when the disk does not take it; nothing can be added after that.
        """
        if self._fault is not None:
            raise self._fault
        self._room.take(len(line))
        try:
            write_all(self._file, line)
        except OSError as error:
            self._fault = error
            self._room.give_back(len(line))
            self._cut()
            raise
        self._size_bytes += len(line)
        self.done.add(custom_id)

    def close(self) -> None:
        """Everything is on the disk; raises `OSError` when that cannot be said, and is closed all the same."""
        try:
            self._cut()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _cut(self) -> None:
        """Half a line is none."""
        if self._fault is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size_bytes)

    def _take_up(self) -> None:
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    self._room.give_back(len(line))
                    break
                self.done.add(msgspec.json.decode(line, type=_Named).custom_id)
                self._size_bytes += len(line)
        self._file.truncate(self._size_bytes)
