"""Whether the dashboard can be left open: a real Chromium looks at a real server under light load, and is weighed.

    python -m benchmarks.dashboard_soak --minutes 30

Every quarter of a minute, after a collection of garbage: the JavaScript heap, DOM nodes and listeners of the page, and the
resident memory of the server. The slopes are over the second half. It fails when the page's heap grows by more than
1 MiB an hour for sure (the lower end of the 95 % interval), or its nodes or listeners do, or the console complains.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from benchmarks.chaos.memory import slope
from benchmarks.result import publish
from benchmarks.served import Server, end_servers_on_sigterm

_EVERY_S = 15.0
_HEAP_BYTES_PER_HOUR = 1 << 20
_MODEL = "amuse-draft"


@dataclass(frozen=True, slots=True)
class Weight:
    """What page and server hold at a moment, `at_s` after the start."""

    at_s: float
    heap_bytes: int
    nodes: int
    listeners: int
    server_bytes: int


def verdict(weights: Sequence[Weight], complaints: Sequence[str]) -> dict[str, Any]:
    """Slopes over the second half, and what is wrong; raises `ValueError` for less than six weights."""
    if len(weights) < 6:
        raise ValueError(
            f"{len(weights)} weights say nothing of a slope; let it run for at least {6 * _EVERY_S / 60:g} minutes"
        )
    half = weights[len(weights) // 2 :]
    at_s = [each.at_s for each in half]
    heap = slope(at_s, [float(each.heap_bytes) for each in half])
    server = slope(at_s, [float(each.server_bytes) for each in half])
    faults = list(complaints)
    if heap.low * 3600 > _HEAP_BYTES_PER_HOUR:
        faults.append(f"the page's heap grows by at least {heap.low * 3600:.0f} bytes an hour")
    for name in ("nodes", "listeners"):
        values = [getattr(each, name) for each in half]
        if slope(at_s, [float(value) for value in values]).low > 0:
            faults.append(f"the page's {name} grow: {values[0]} to {values[-1]}")
    return {
        "minutes": round(weights[-1].at_s / 60, 1),
        "heap_bytes": [half[0].heap_bytes, half[-1].heap_bytes],
        "heap_bytes_per_hour": [round(3600 * each) for each in (heap.median, heap.low, heap.high)],
        "nodes": [min(each.nodes for each in half), max(each.nodes for each in half)],
        "listeners": [min(each.listeners for each in half), max(each.listeners for each in half)],
        "server_bytes": [half[0].server_bytes, half[-1].server_bytes],
        "server_bytes_per_hour": [round(3600 * each) for each in (server.median, server.low, server.high)],
        "faults": faults,
    }


async def load(port: int, per_second: float) -> None:
    """Ask for ever, by chance so often."""
    chance = random.Random(1)
    while True:
        await asyncio.sleep(chance.expovariate(per_second))
        body = {
            "model": _MODEL,
            "messages": [{"role": "user", "content": "Tell me a story. " * chance.randint(1, 12)}],
            "max_tokens": chance.randint(4, 40),
        }
        await asyncio.to_thread(post, port, orjson.dumps(body))


def post(port: int, body: bytes) -> None:
    """One request; what comes back is read to its end."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        connection.getresponse().read()
    finally:
        connection.close()


async def watch(port: int, pid: int, minutes: float) -> tuple[list[Weight], list[str]]:
    """Look at the page for so long; its weights, and what its console said."""
    from playwright.async_api import async_playwright

    complaints: list[str] = []
    weights: list[Weight] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"http://127.0.0.1:{port}/dashboard")
        tools = await page.context.new_cdp_session(page)
        began_s = monotonic()
        while monotonic() < began_s + 60 * minutes:
            await asyncio.sleep(_EVERY_S)
            await tools.send("HeapProfiler.collectGarbage")
            heap, dom = await tools.send("Runtime.getHeapUsage"), await tools.send("Memory.getDOMCounters")
            weight = Weight(
                at_s=monotonic() - began_s,
                heap_bytes=int(heap["usedSize"]),
                nodes=int(dom["nodes"]),
                listeners=int(dom["jsEventListeners"]),
                server_bytes=resident_bytes(pid),
            )
            weights.append(weight)
            sys.stderr.write(f"{asdict(weight)}\n")
        await browser.close()
    return weights, complaints


def resident_bytes(pid: int) -> int:
    """The memory that a process has now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


async def run(minutes: float, per_second: float) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        ledger, engine = ("--ledger", str(folder / "ledger.sqlite")), ("--threads", "1", "--kv-memory", "8MiB")
        server = Server(folder / "log", _MODEL, "--port", "0", *engine, *ledger)
        await server.start()
        asking = asyncio.create_task(load(server.port, per_second))
        try:
            weights, complaints = await watch(server.port, server.pid, minutes)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            server.stop()
    told = verdict(weights, complaints)
    return {**told, "requests_per_second": per_second, "runs": [asdict(each) for each in weights]}


def main() -> None:
    """Run it; the exit code is 1 if the page grows or complains."""
    end_servers_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--per-second", type=float, default=1.0, help="requests to the server")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.minutes, arguments.per_second))
    publish("dashboard-soak", figures)
    sys.exit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
