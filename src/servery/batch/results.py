"""The results of one batch as they are collected: appended line by line, taken up again after a crash."""

import os
from pathlib import Path
from typing import BinaryIO

import msgspec


class _Named(msgspec.Struct):
    custom_id: str


class Results:
    """Lines of a file; `done` are the custom ids of the requests that it has, those of an earlier run included.

    A last line that a crash cut short is removed: its request is answered again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        self._file: BinaryIO = path.open("a+b")
        self._take_up()

    def add(self, custom_id: str, line: bytes) -> None:
        """Append a line, which ends in a newline."""
        self._file.write(line)
        self._file.flush()  # a crash of this process loses nothing; one of the machine perhaps the last lines
        self.done.add(custom_id)

    def close(self) -> None:
        """Everything is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _take_up(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self.done.add(msgspec.json.decode(line, type=_Named).custom_id)
            end += len(line)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
