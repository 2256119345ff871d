"""Ctrl-C in the middle of a measurement: the first ends it, and what there is so far is told; a second ends the program."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self


class Stopped(Exception):
    """The next run was given up before anything of it was measured."""


class Stop:
    """Whether the measurement is to end. Before `listen` Ctrl-C ends the program, since there is nothing to tell yet.

    A context manager: leaving it gives Ctrl-C back to whoever had it.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._end: Callable[[], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hear_no_more()

    def listen(self) -> None:
        """From now on Ctrl-C asks; only the main thread can hear it."""
        if self._loop is None and not self.is_asked and threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            self._loop.add_signal_handler(signal.SIGINT, self.ask)

    def ask(self) -> None:
        """End what is under way, and begin nothing more."""
        self._hear_no_more()  # a second Ctrl-C ends the program
        self.is_asked = True
        if self._end is not None:
            self._end()

    def check(self) -> None:
        """Raises `Stopped` once the measurement is to end."""
        if self.is_asked:
            raise Stopped

    @contextmanager
    def ends(self, end: Callable[[], object]) -> Iterator[None]:
        """`end` is called when the measurement is to end while this lasts."""
        self._end = end
        if self.is_asked:
            end()
        try:
            yield
        finally:
            self._end = None

    def _hear_no_more(self) -> None:
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, self._before)
            self._loop = None
