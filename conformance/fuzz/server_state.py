"""What a server says of itself when nobody asks it for anything, which must be the same before and after."""

import contextlib
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from conformance.fuzz.claims import Fault

METRICS_KEY = "of-the-fuzzer"  # what the server that is fuzzed is started with
_METRIC = re.compile(r"^servery_(\w+)(\{.*\})? (\S+)$", re.MULTILINE)
_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class ServerState:
    """Counts of one moment; `sockets` are None where the system does not tell."""

    running: float
    waiting: float
    held_blocks: float
    all_blocks: float
    failed_steps: float
    engine_failures: float
    sockets: int | None

    def faults(self, before: "ServerState") -> list[str]:
        """What is wrong with a server that should be idle now, and was `before`."""
        wrong = {
            "requests still run": self.running,
            "requests still wait": self.waiting,
            "blocks are still held": self.held_blocks,
            "blocks were lost or invented": abs(self.all_blocks - before.all_blocks),
            "steps failed": self.failed_steps - before.failed_steps,
            "times the engine died or hung": self.engine_failures - before.engine_failures,
            "connections are still open": max(0, (self.sockets or 0) - (before.sockets or 0)),
        }
        return [f"{count:g} {what}" for what, count in wrong.items() if count]


def read_state(url: str, pid: int) -> ServerState:
    """The state now; raises `Fault` when the server does not tell in time."""
    request = urllib.request.Request(f"{url}/metrics", headers={"authorization": f"Bearer {METRICS_KEY}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            metrics = _METRIC.findall(answer.read().decode())
    except OSError as error:
        raise Fault(f"the server tells no metrics: {error}") from error

    def total(name: str, label: str = "") -> float:
        return sum(float(value) for found, labels, value in metrics if found == name and label in labels)

    return ServerState(
        running=total("num_requests_running"),
        waiting=total("num_requests_waiting"),
        held_blocks=total("kv_blocks", 'state="held"'),
        all_blocks=total("kv_blocks"),
        failed_steps=total("engine_failed_steps_total"),
        engine_failures=total("engine_failures_total"),
        sockets=_sockets(pid),
    )


def wait_state(url: str, pid: int) -> ServerState:
    """The state once the engine has told of itself, which it does several times a second; raises `Fault`."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not (state := read_state(url, pid)).all_blocks:
        if time.monotonic() > deadline:
            raise Fault(f"the engine told nothing of itself in {_TIMEOUT_S:g} s")
        time.sleep(_LOOK_AGAIN_S)
    return state


def settle(url: str, pid: int, before: ServerState, limit_s: float = 60.0) -> None:
    """Wait until the server is idle and as it was `before`; raises `Fault` that says what is not."""
    deadline = time.monotonic() + limit_s
    while faults := read_state(url, pid).faults(before):
        if time.monotonic() > deadline:
            raise Fault(f"after {limit_s:g} s without requests: {'; '.join(faults)}")
        time.sleep(_LOOK_AGAIN_S)


def check_health(url: str) -> None:
    """Raise `Fault` unless the server says in time that it lives."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_TIMEOUT_S):  # noqa: S310
            pass
    except OSError as error:
        raise Fault(f"the server is not healthy: {error}") from error


def _sockets(pid: int) -> int | None:
    folder = Path(f"/proc/{pid}/fd")
    if not folder.is_dir():
        return None
    count = 0
    for link in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            count += link.readlink().name.startswith("socket:")
    return count
