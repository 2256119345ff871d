"""What counting a request against limits costs: reserve and settle, in memory and in a real Redis.

The plan is the dearest there is: requests, input and output tokens, concurrency, and money per day and month, of a key, an
owner and a model: 18 meters. Memory is measured in CPU time of one reservation with its settlement, the best of several
rounds, so that a busy machine adds little; Redis with 64 requests under way at a time, in CPU time of this process and in
reservations per second, Redis being a process of its own on another core.

python -m benchmarks.limits [--rounds 7] [--requests 20000]

Redis is left out where there is no redis-server (Debian: redis-server) or no client (pip install 'servery[redis]').
"""

import argparse
import asyncio
import contextlib
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import publish
from servery.config.types import Limits
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import Cost, LimitStore, Plan, meters
from servery.gateway.admit.limits.shared import SharedLimits

_MOST = 10**9
_LIMITS = Limits(
    requests_per_minute=_MOST,
    input_tokens_per_minute=_MOST,
    output_tokens_per_minute=_MOST,
    concurrency=10**6,
    microusd_per_day=10**12,
    microusd_per_month=10**12,
)
_SCOPES = ("key", "owner", "model")
_RESERVED, _USED = Cost(1, 100, 400, 50), Cost(1, 95, 120, 17)
_LEASE_MS = 600_000
_AT_ONCE = 64


def plan(scopes: Sequence[str]) -> Plan:
    """All six limits of each scope."""
    return Plan([meter for scope in scopes for meter in meters(scope, "a", _LIMITS)])


async def one(store: LimitStore, meters_of: Plan) -> None:
    """Reserve and settle; raises `SystemExit` if that is refused."""
    lease = (await store.reserve(meters_of, _RESERVED, _LEASE_MS)).lease
    if lease is None:
        raise SystemExit("a reservation was refused, so the figures would be of refusals")
    lease.settle(_USED)


async def cpu_us(store: LimitStore, meters_of: Plan, requests: int, rounds: int) -> list[float]:
    """Microseconds of CPU per request, one after the other, of each round."""
    found = []
    for _ in range(rounds):
        begun_s = time.process_time()
        for _ in range(requests):
            await one(store, meters_of)
        found.append(1e6 * (time.process_time() - begun_s) / requests)
    return found


async def shared_figures(url: str, requests: int, rounds: int) -> dict[str, Any]:
    """Of a Redis, with several requests under way."""
    store, meters_of = SharedLimits(url, 5.0), plan(_SCOPES)
    cpu, rates = [], []
    for _ in range(rounds):
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(requests // _AT_ONCE):
            await asyncio.gather(*(one(store, meters_of) for _ in range(_AT_ONCE)))
        count = requests // _AT_ONCE * _AT_ONCE
        cpu.append(1e6 * (time.process_time() - begun_cpu_s) / count)
        rates.append(count / (time.perf_counter() - begun_s))
    await store.close()
    return {"cpu_us_per_request": min(cpu), "requests_per_s": max(rates)}


@contextlib.asynccontextmanager
async def redis() -> AsyncIterator[str]:
    """The address of a Redis of our own."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        socket = Path(folder) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():  # noqa: ASYNC110 (another process makes it)
                await asyncio.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.kill()
            await process.wait()


async def measure(requests: int, rounds: int) -> dict[str, Any]:
    """All figures."""
    memory = MemoryLimits()
    in_memory = {
        f"{len(scopes)} scopes": min(await cpu_us(memory, plan(scopes), requests, rounds))
        for scopes in (_SCOPES[:1], _SCOPES)
    }
    figures: dict[str, Any] = {"memory_cpu_us": in_memory, "goal_cpu_us": 20.0}
    if shutil.which("redis-server") and importlib.util.find_spec("redis"):
        async with redis() as url:
            figures["redis"] = await shared_figures(url, max(_AT_ONCE, requests // 10), rounds)
    return figures


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    publish("limits", asyncio.run(measure(options.requests, options.rounds)))


if __name__ == "__main__":
    main()
