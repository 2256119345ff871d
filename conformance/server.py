"""`servery serve` in a process of its own, for as long as a suite runs."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

from conformance.errors import CannotRun

_READY = re.compile(r"ready at (http://\S+) ")
_END_TIMEOUT_S = 60.0


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of a server on a free port; it is ended with the block.

    Raises `CannotRun` with what it printed when it does not start.
    """
    command = [sys.executable, "-m", "servery", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    try:
        yield _address(process)
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[str]") -> str:
    """Read until the line that says it; then somebody must go on reading, or the server would wait for a reader."""
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line)
        if ready := _READY.search(line):
            threading.Thread(target=_read_on, args=(process,), daemon=True).start()
            return ready[1]
    raise CannotRun(f"the server ended with {process.wait()}:\n{''.join(said)}")


def _read_on(process: "subprocess.Popen[str]") -> None:
    for _ in process.stdout or ():
        pass
