"""A real `servery serve` in a process of its own."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_READY = re.compile(r"ready at http://([\d.]+):(\d+) ")
_ENGINE = re.compile(r"process (\d+)$")
# Nothing here takes as long on any machine: what does hangs.
START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess:
    """Started with `servery serve` and these arguments; what it prints is kept."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "servery", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[str] = []
        self.host, self.port, self.engine_pid = "", 0, 0
        self._unread: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def output(self) -> str:
        """Everything printed so far, as far as it was waited for."""
        return "\n".join(self.lines)

    def wait_ready(self) -> None:
        """Wait for the line that says where it serves; `engine_pid` is 0 if no model has been loaded by then."""
        match = self.wait_line(_READY)
        self.host, self.port = match[1], int(match[2])
        engines = [found for line in self.lines if (found := _ENGINE.search(line))]
        self.engine_pid = int(engines[0][1]) if engines else 0

    def wait_line(self, pattern: "re.Pattern[str] | str", timeout_s: float = START_TIMEOUT_S) -> "re.Match[str]":
        """Wait for a line that matches, among those not yet read."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._unread.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line matched {pattern!r} in {timeout_s} s:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"the server ended with {self.process.wait()}:\n{self.output}")
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match

    def wait_exit(self, timeout_s: float = 60.0) -> int:
        """Wait for the end of the process; returns its exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        while (line := self._unread.get_nowait()) is not None:
            self.lines.append(line)
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own; names of headers are written with underscores."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        request = urllib.request.Request(self.url + path, data=data, headers=named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series that have these labels; 0 when there is none."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        found = [line for line in lines if re.match(rf"servery_{name}[{{ ]", line) and all(w in line for w in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def end(self) -> None:
        """Make sure that it is gone, and its engines with it."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(60)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._unread.put(line.rstrip("\n"))
        self._unread.put(None)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[ServerProcess]:
    """A server that is ready, on a port of its own."""
    server = ServerProcess("--port", "0", "--threads", "1", "--kv-memory", "16MiB", *arguments)
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()


def eventually(is_true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> float:
    """Look again and again until it is true; returns the seconds that took."""
    started = time.monotonic()
    while not is_true():
        took_s = time.monotonic() - started
        assert took_s < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)
    return time.monotonic() - started
