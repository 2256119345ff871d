"""Real `servery serve` processes and the engines below them, as the system sees them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_READY = re.compile(r"ready at http://[\d.]+:(\d+) ")
_ENGINE_MODULE = "servery.engine.process"
_START_S = 180.0
_LOOK_S = 0.05


def end_servers_on_sigterm() -> None:
    """Let SIGTERM end this process by way of whoever stops its servers, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


class Server:
    """A `servery serve` with these arguments; what it prints goes to the file `log`.

    `is_ready` from when it said so until it is killed.
    """

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        self._arguments = arguments
        self.port = 0
        self.is_ready = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its number; raises `ValueError` before it was started."""
        if self._process is None:
            raise ValueError("the server was never started; call start")
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it is ready; raises `TimeoutError`, or `RuntimeError` with its log if it ends."""
        process, begin = self._launch()
        async with asyncio.timeout(_START_S):
            while not (found := _READY.search(self.log.read_bytes()[begin:].decode())):
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}: {self.log.read_text()}")
                await asyncio.sleep(_LOOK_S)
        self.port = int(found[1])
        self.is_ready = True

    def _launch(self) -> tuple[subprocess.Popen[bytes], int]:
        """The process, and where in the log it begins to write."""
        with self.log.open("ab") as log:
            begin = log.tell()
            command = [sys.executable, "-m", "servery", "serve", *self._arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        return self._process, begin

    def kill(self) -> None:
        """End it without a word."""
        self.is_ready = False
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int | None:
        """End it as an operator would; its exit code, None if it had to be killed."""
        if self._process is None:
            return None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def engines(self) -> dict[str, "Target"]:
        """Its engines that run now, by their models' names."""
        found = {}
        for pid in _children(self.pid):
            name = _engine_name(pid)
            if name is not None:
                found[name] = Target(pid)
        return found


class Target:
    """A process that signals are sent to; one that has ended takes none, even if its number was given anew."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._began = _started(pid)

    @property
    def is_there(self) -> bool:
        """Whether it runs."""
        return self._began is not None and _started(self.pid) == self._began

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there to take the signal."""
        if not self.is_there:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def resident_bytes(pid: int) -> int:
    """The memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """The processor time that a process took, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> dict[str, int]:
    """How many descriptors a process has open, by kind: "socket", "pipe", "anon_inode", "file"."""
    found: dict[str, int] = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
        except FileNotFoundError:
            continue
        kind = target.partition(":")[0] if not target.startswith("/") else "file"
        found[kind] = found.get(kind, 0) + 1
    return found


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


async def gone(target: Target, within_s: float) -> bool:
    """Whether a process ended in that time."""
    end_s = time.monotonic() + within_s
    while target.is_there:
        if time.monotonic() > end_s:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            yield from map(int, (thread / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue


def _engine_name(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return words[-1].decode() if _ENGINE_MODULE.encode() in words else None


def _started(pid: int) -> int | None:
    """When it began, in ticks of the system; None if it is gone, or has ended and is not yet buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
