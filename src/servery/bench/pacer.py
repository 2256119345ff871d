"""Wakes an event loop at given times, to a fraction of a millisecond.

Timers of an event loop are rounded to whole milliseconds, which would show in every latency that counts from the time
at which a request was due. A thread that sleeps with the system's own timer does not round.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

_LONGEST_SLEEP_S = 0.5  # so that a pacer that is told to stop ends soon


class Pacer:
    """Calls `due(index)` on the loop at each of `times` (seconds of `time.perf_counter`, ascending)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, times: Sequence[float], due: Callable[[int], None]) -> None:
        self._loop = loop
        self._times = times
        self._due = due
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pacer", daemon=True)

    def __enter__(self) -> "Pacer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Send nothing more."""
        self._is_stopped.set()

    def _run(self) -> None:
        for index, at in enumerate(self._times):
            while (left := at - time.perf_counter()) > 0:
                time.sleep(min(left, _LONGEST_SLEEP_S))
                if self._is_stopped.is_set():
                    return
            if self._is_stopped.is_set():
                return
            self._loop.call_soon_threadsafe(self._due, index)
