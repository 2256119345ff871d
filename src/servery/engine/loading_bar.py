"""The progress bar while weights are loaded: on a terminal only, and only for models that take a while."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOW_AFTER_S = 0.5


class LoadingBar:
    """A context manager whose value is called with (bytes done, bytes in total).

    `is_shown` None shows it on a terminal. It appears once loading has taken half a second.
    """

    def __init__(self, label: str, *, is_shown: bool | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_shown = self._stream.isatty() if is_shown is None else is_shown
        self._label = label
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "LoadingBar":
        self._started = time.monotonic()
        return self

    def __call__(self, done: int, total: int) -> None:
        """Draw `done` of `total` bytes."""
        if not self._is_shown or (self._bar is None and time.monotonic() - self._started < SHOW_AFTER_S):
            return
        if self._bar is None:
            self._bar = self._start()
            self._task = self._bar.add_task(self._label)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(file=self._stream, force_terminal=True), transient=True)
        bar.start()
        return bar
