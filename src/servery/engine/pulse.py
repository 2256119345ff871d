"""Signs of life of an engine's loop, in memory that it shares with whoever watches over it.

Shared memory and not messages: a beat costs the loop less than a microsecond, so that it can give one before every step
and say how long that may take; and it can be read whatever the loop, or the socket, is stuck in.
"""

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

# A loop is idle for a fraction of this, and its steps are kept far below it.
SILENCE_S = 4.0
# How much longer than expected a step may take: a machine that has other work to do, a context that has grown.
PATIENCE = 10.0
# Nothing is known of the first steps of an engine: of a large model on a small machine they may take minutes.
UNKNOWN_STEP_S = 300.0
# Reading files, as of an adapter or of weights that were released, may take as long, and computes nothing.
READING_S = 300.0

_BYTES = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life at `at_s` (monotonic, one clock for all processes of a machine), and how long none need follow.

    `allowed_s` holds for a process that computes, `still_s` for one that does nothing at all.
    """

    at_s: float
    allowed_s: float = SILENCE_S
    still_s: float = SILENCE_S


class Pulse:
    """Where the loop writes its newest beat and its server reads it. Each of the two opens the same file descriptor."""

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic, *, others_s: float = 0.0) -> None:
        """`others_s`, of a loop whose steps wait for other processes that compute: how long they may in any case."""
        self._clock = clock
        self._others_s = others_s
        self._memory = mmap.mmap(fd, _BYTES)
        self._values = memoryview(self._memory).cast("d")

    def beat(self) -> None:
        """The loop goes round."""
        self._write(SILENCE_S, SILENCE_S)

    def step(self, expected_s: float | None) -> None:
        """A step begins that is expected to take so long; None: nobody knows."""
        expected = UNKNOWN_STEP_S if expected_s is None else PATIENCE * expected_s
        allowed_s = max(SILENCE_S, self._others_s, expected)
        self._write(allowed_s, allowed_s if self._others_s else SILENCE_S)

    def read_files(self) -> None:
        """Files are read now."""
        self._write(READING_S, READING_S)

    def last(self) -> Beat:
        """The newest beat; at 0 s before the first."""
        return Beat(*self._values[:3])

    def close(self) -> None:
        """Let go of the memory; the other end keeps it."""
        self._values.release()
        self._memory.close()

    def _write(self, allowed_s: float, still_s: float) -> None:
        # The limits first: a reader in between sees the old beat with the new limits, which is harmless.
        self._values[1] = allowed_s
        self._values[2] = still_s
        self._values[0] = self._clock()


def shared_memory() -> int:
    """A file descriptor of new memory for a `Pulse`, all zeros; whoever asks closes it."""
    fd = _anonymous_file()
    try:
        os.ftruncate(fd, _BYTES)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("servery-pulse")
    with tempfile.TemporaryFile() as file:  # not Linux
        return os.dup(file.fileno())
