"""`servery serve` in a process of its own, for as long as a suite runs."""

import contextlib
import os
import queue
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
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    address: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    ) as process:
        # Somebody must read to the end, or the server would wait for a reader.
        reader = threading.Thread(target=_read, args=(process, said, address), daemon=True)
        reader.start()
        try:
            url = address.get()
            if url is None:
                raise CannotRun(f"the server ended with {process.wait()}:\n{''.join(said)}")
            yield Served(url, process.pid, said)
        finally:
            _end(process)
            reader.join()


def _read(process: "subprocess.Popen[str]", said: "deque[str]", address: "queue.SimpleQueue[str | None]") -> None:
    for line in process.stdout or ():
        said.append(line)
        if ready := _READY.search(line):
            address.put(ready[1])
    address.put(None)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
