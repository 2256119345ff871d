"""The HTTP client of the upstream leg beside others: requests per second of one core, and CPU time per request.

A server of a few lines answers from one core; each client asks from another, in a process of its own, clients taking
turns. `once` is a body of 575 bytes in one answer, `stream` 32 events of 258 bytes, 5 ms apart, in chunks. `bare` is no
client: the same bytes over sockets of the event loop, neither framed nor parsed; what a client costs is what it takes
more. All run on uvloop.

python -m benchmarks.http_client [--rounds 3] [--seconds 3] [--concurrency 32] [--streams 64] [--peers PYTHON]

PYTHON is an interpreter that has the peers which this one lacks (`pip install aiohttp httpx sniffio uvloop`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.http_client_load import CLIENTS, EVENTS
from benchmarks.result import interleaved, median_ratio, publish

_ROOT = Path(__file__).resolve().parents[1]
_LOAD = [str(Path(__file__).with_name("http_client_load.py"))]
_MODULES = {"bare": "uvloop", "servery": "httptools", "aiohttp": "aiohttp", "httpx2": "httpx2", "httpx": "httpx"}


def interpreters(own: str, peers: str | None) -> dict[str, str]:
    """Which Python runs which client: ours if it has it, else the peers'."""
    found = {}
    for name in CLIENTS:
        for python in filter(None, (own, peers)):
            has = subprocess.run([python, "-c", f"import uvloop, {_MODULES[name]}"], capture_output=True, check=False)  # noqa: S603
            if has.returncode == 0:
                found[name] = python
                break
    return found


@contextmanager
def server(core: int | None) -> Iterator[str]:
    """The server's address."""
    command = [*_pinned(core), sys.executable, *_LOAD, "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def measure(python: str, arguments: Sequence[str], core: int | None) -> dict[str, float]:
    """One client's figures."""
    command = [*_pinned(core), python, *_LOAD, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compare(clients: dict[str, str], kind: str, concurrency: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Every client's runs of one kind, in turns, and their CPU time beside ours."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    client_core, server_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
    with server(server_core) as address:
        for _, name in interleaved(list(clients), rounds):
            arguments = [name, address, kind, str(concurrency), str(seconds)]
            runs[name].append(measure(clients[name], arguments, client_core))
    ours = [run["cpu_us_per_request"] for run in runs["servery"]]
    return {
        name: {
            **{key: statistics.median(run[key] for run in taken) for key in taken[0]},
            "cpu_beside_servery": median_ratio([run["cpu_us_per_request"] for run in taken], ours),
            "runs": taken,
        }
        for name, taken in runs.items()
    }


def table(compared: dict[str, dict[str, Any]]) -> Table:
    """What a reader wants to see."""
    shown = Table("kind", "client", "requests/s", "CPU µs/request", "CPU µs/event", "of a core", "CPU, servery = 1")
    for kind, clients in compared.items():
        for name, figures in clients.items():
            ratio = figures["cpu_beside_servery"]
            per_event = f"{figures['cpu_us_per_request'] / EVENTS:.1f}" if kind == "stream" else ""
            shown.add_row(
                *(kind, name, f"{figures['requests_per_s']:,.0f}", f"{figures['cpu_us_per_request']:.1f}", per_event),
                *(f"{figures['core_share']:.2f}", f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"),
            )
    return shown


def _pinned(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "-c", str(core)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT / "src")}


def main() -> None:
    """Measure, write the result, show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--peers", help="a Python that has the other clients")
    options = parser.parse_args()
    clients = interpreters(sys.executable, options.peers)
    compared = {
        kind: compare(clients, kind, concurrency, options.seconds, options.rounds)
        for kind, concurrency in (("once", options.concurrency), ("stream", options.streams))
    }
    Console(stderr=True).print(table(compared))
    publish("http_client", {**vars(options), "clients": compared})


if __name__ == "__main__":
    main()
