"""`servery serve` in a process of its own, for as long as a suite runs."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from conformance.errors import CannotRun

_READY = re.compile(r"ready at (http://\S+) ")
_END_TIMEOUT_S = 60.0
_KEPT_LINES = 2000


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs: its address, its process, and the last that it printed."""

    url: str
    pid: int
    said: "deque[str]"


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Served]:
    """A server on a free port; it is ended with the block.

    Raises `CannotRun` with what it printed when it does not start.
    """
    command = [sys.executable, "-m", "servery", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    try:
        yield _ready(process)
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: "subprocess.Popen[str]") -> Served:
    """Read until the line that says where; then somebody must go on reading, or the server would wait for a reader."""
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    for line in process.stdout or ():
        said.append(line)
        if ready := _READY.search(line):
            threading.Thread(target=_read_on, args=(process, said), daemon=True).start()
            return Served(ready[1], process.pid, said)
    raise CannotRun(f"the server ended with {process.wait()}:\n{''.join(said)}")


def _read_on(process: "subprocess.Popen[str]", said: "deque[str]") -> None:
    for line in process.stdout or ():
        said.append(line)
