"""Calls of functions per request that is not streamed, Python's and C's: a figure that no neighbour can change.

Python counts them itself (`sys.setprofile`), on the way of requests that one client sends one after the other over one
connection. What is called less than every second time is left out: it runs by the clock. What is C throughout is not seen:
transports, and what they call.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.table import Table

from benchmarks.gateway.rig import Rig, request
from benchmarks.gateway.servery import write_configuration
from benchmarks.result import FOLDER

NAME = "gateway-calls"
_GATEWAY, _UPSTREAM = 8961, 8962
_READY_S = 60.0
_WARM_REQUESTS = 30
_SETTLED_S = 0.3  # until a request is settled whose answer has come


def count(cache: Path, requests: int) -> dict[str, int]:
    """How often each function is called per request; one of C by whom, behind an arrow."""
    with tempfile.TemporaryDirectory() as place, Rig(cache / "rig", 1).upstream(_UPSTREAM):
        folder = Path(place)
        configuration, found = write_configuration(folder, port=_GATEWAY, upstream=_UPSTREAM), folder / "calls.json"
        command = [sys.executable, "-m", "benchmarks.gateway.counted", str(found), "serve", "--log-level", "warning"]
        with subprocess.Popen([*command, "--config", str(configuration)], stdout=subprocess.DEVNULL) as gateway:  # noqa: S603
            try:
                with _connected() as connection:
                    _ask(connection, _WARM_REQUESTS)
                    _turn(gateway, found.with_suffix(".begun"))
                    _ask(connection, requests)
                    _turn(gateway, found)
                return per_request(json.loads(found.read_text()), requests)
            finally:
                gateway.terminate()
                gateway.wait()


def per_request(counts: Mapping[str, int], requests: int) -> dict[str, int]:
    """Of all that was counted, what belongs to requests: the last one may not be settled when counting ends."""
    return {name: each for name, number in counts.items() if (each := round(number / requests))}


def by_room(calls: Mapping[str, int]) -> dict[str, int]:
    """Calls by the package of Servery's in which they were made, the most first."""
    rooms: Counter[str] = Counter()
    for name, number in calls.items():
        path = name.partition(":")[0]
        rooms[path.rpartition("/")[0] if path.startswith("servery/") else "others"] += number
    return dict(rooms.most_common())


def table(calls: Mapping[str, int]) -> Table:
    """A line for each room, the total, and that as a multiple of what it was."""
    before, total = _before(), sum(calls.values())
    shown = Table("calls per request", "", "over before")
    for room, number in by_room(calls).items():
        shown.add_row(room, str(number), "")
    shown.add_row("all", str(total), f"{total / before:.3f}" if before else "-")
    return shown


@contextlib.contextmanager
def _connected() -> Iterator[socket.socket]:
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", _GATEWAY), 60.0)
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            break
    with connection:
        yield connection


def _ask(connection: socket.socket, number: int) -> None:
    sent = request(is_stream=False, port=_GATEWAY)
    for _ in range(number):
        connection.sendall(sent)
        head, _, body = connection.recv(1 << 16).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or not body:
            raise RuntimeError(f"the gateway answered {head[:40]!r}")


def _turn(gateway: "subprocess.Popen[bytes]", told: Path) -> None:
    """Have the gateway begin to count, or write down what it has; that there is `told` says that it heard."""
    time.sleep(_SETTLED_S)
    gateway.send_signal(signal.SIGUSR1)
    until_s = time.monotonic() + _READY_S
    while not told.exists():
        if time.monotonic() > until_s:
            raise RuntimeError(f"the gateway did not hear the signal within {_READY_S:g} s")
        socket.create_connection(
            ("127.0.0.1", _GATEWAY), 60.0
        ).close()  # Python hears a signal when it has something to do
        time.sleep(0.02)


def _before() -> float | None:
    files = sorted(FOLDER.glob(f"{NAME}-*.json"))
    return float(json.loads(files[-1].read_text())["calls"]) if files else None
