"""A gateway that runs for the benchmark, whichever it is: how it is started, and what it takes meanwhile."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway.processes import cpu_s, rss_bytes
from benchmarks.gateway.rig import request

_READY_S = 90.0
_END_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway: its command, where it listens, and the headers that its requests have besides the key."""

    name: str
    command: Sequence[str]
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    model: str = "m"

    def request(self, *, is_stream: bool = False) -> bytes:
        """What it is sent."""
        return request(is_stream=is_stream, port=self.port, headers=dict(self.headers), model=self.model)


@dataclass(frozen=True, slots=True)
class Running:
    """One that answers; `ready_s` is from its start to the first answer."""

    gateway: Gateway
    process: int
    ready_s: float

    @property
    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_s(self.process)

    @property
    def rss_mb(self) -> float:
        """Resident memory of all its processes."""
        return rss_bytes(self.process) / 1e6


@contextlib.contextmanager
def running(gateway: Gateway, core: int, folder: Path) -> Iterator[Running]:
    """Inside, it runs alone on `core` and has given its first answer; its words are in `folder`."""
    began_s = time.monotonic()
    variables = {**os.environ, **gateway.variables}
    with (folder / f"{gateway.name}.log").open("wb") as log:
        command = ["taskset", "-c", str(core), *gateway.command]
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=folder)  # noqa: S603
    try:
        _wait_ready(gateway, process)
        yield Running(gateway, process.pid, time.monotonic() - began_s)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(gateway: Gateway, process: "subprocess.Popen[bytes]") -> None:
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise RuntimeError(f"{gateway.name} ended with code {process.returncode} before it answered")
        if _answers(gateway):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{gateway.name} gave no answer within {_READY_S:g} s")


def _answers(gateway: Gateway) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), 5.0) as connection:
            connection.sendall(gateway.request())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False
