"""The whole run: calm, trouble, calm again, judgement."""

import asyncio
import contextlib
import random
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.client import Client
from benchmarks.chaos.load import Load
from benchmarks.chaos.memory import slope
from benchmarks.chaos.stage import Stage, stage
from benchmarks.chaos.trouble import Trouble
from benchmarks.chaos.verdict import Held, judge, leaks
from benchmarks.served import Server, cpu_s, open_files, resident_bytes, threads
from servery.telemetry.ledger.reading import rows_in

# The share of the run that is warm-up: caches and pools fill.
_WARM_UP = 0.25
_SAMPLES = 300
# Memory is flat if it certainly grew, while it was watched, by no more than this share of itself. A shorter time cannot
# tell: memory that was needed once is given back minutes later.
_FLAT_SHARE = 0.03
_LEAST_WATCHED_S = 600.0
_BATCH_PAUSE_S = 20.0
# A breaker that has opened often stays so for a minute, an engine that died often for half of one.
_QUIET_S = 150.0
_TOTAL_S = 90.0
# What may be there at the end and not before: kept-alive connections to upstreams, workers of thread pools.
_ALLOWED = Held(files={"socket": 16, "file": 4}, threads=8, tasks=4)
_BAD_LOG = re.compile(
    r"Traceback|never retrieved|was destroyed but|Unclosed|coroutine .* was never awaited", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """How long, how many questions a second, how often something goes wrong on average, and by which chance."""

    minutes: float = 30.0
    rate: float = 2.0
    trouble_every_s: float = 15.0
    most_reference_tokens: int = 1_000
    seed: int = 1


@dataclass(slots=True)
class Watched:
    """The gateway's memory and processor time, by the seconds since the trouble began."""

    at_s: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def run(options: ChaosOptions, folder: Path | None = None) -> dict[str, Any]:
    """The figures; those of "violations" are what did not hold. What the servers write is left in `folder` if given."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="servery-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_run(options, folder))


async def _run(options: ChaosOptions, folder: Path) -> dict[str, Any]:
    chance = random.Random(options.seed)
    for_s = 60.0 * options.minutes
    async with stage(folder, chance, _TOTAL_S) as made:
        load = Load(made.client, chance, options.rate)
        await load.references(options.most_reference_tokens)
        trouble = Trouble(made, chance, options.trouble_every_s)
        before = await _quiet(made, trouble.violations)
        watched = await _trouble(load, trouble, made, for_s)
        after = await _quiet(made, trouble.violations)
        metrics = await _metrics(made.client)
        left = await _left(made, metrics)
        code = made.gateway.stop()
    rows = rows_in(made.ledger)
    verdict = judge(load.seen, load.batches, rows)
    grown = slope(watched.at_s, watched.bytes)
    violations = [
        *verdict.violations, *trouble.violations, *left, *leaks(before, after, _ALLOWED),
        *_log(made.gateway), *([] if code == 0 else [f"the gateway ended with {code}"]),
    ]  # fmt: skip
    watched_s = watched.at_s[-1] - watched.at_s[0]
    if watched_s >= _LEAST_WATCHED_S and grown.low * watched_s > _FLAT_SHARE * watched.bytes[0]:
        violations.append(f"memory grows by {grown.median * 3600 / 2**20:.1f} MiB an hour")
    counted = sum(_values(metrics, "servery_exchanges_total"))
    if counted != len(rows):
        violations.append(f"{counted:g} exchanges were counted, and the ledger has {len(rows)} rows")
    busy_s = watched.cpu_s[-1] - watched.cpu_s[0]
    return {
        "violations": violations,
        "counts": dict(sorted(verdict.counts.items())),
        "rows": len(rows),
        "rows_by_deployment": dict(Counter(str(row.deployment) for row in rows)),
        "attempts": sum(row.attempts for row in rows),
        "trouble": dict(Counter(what for _, what in trouble.done)),
        "faults": dict(made.faulty.faults),
        "engine_restarts": sum(_values(metrics, "servery_engine_restarts_total")),
        "memory_mib": {
            "warm": round(watched.bytes[0] / 2**20, 1), "end": round(watched.bytes[-1] / 2**20, 1),
            "slope_per_hour": round(grown.median * 3600 / 2**20, 2),
            "slope_interval": [round(each * 3600 / 2**20, 2) for each in (grown.low, grown.high)],
        },
        "held": {"before": _plain(before), "after": _plain(after)},
        "gateway_cpu_share": round(busy_s / watched_s, 3),
        "runs": {"memory": [watched.at_s, watched.bytes], "trouble": trouble.done},
    }  # fmt: skip


async def _trouble(load: Load, trouble: Trouble, made: Stage, for_s: float) -> Watched:
    """The load under trouble, and the gateway's memory after the warm-up."""
    watched = Watched()
    background = [
        asyncio.create_task(trouble.make()),
        asyncio.create_task(load.batch_after_batch(min(_BATCH_PAUSE_S, for_s / 4))),
        asyncio.create_task(_watch(made.gateway, watched, for_s)),
    ]
    try:
        await load.run(for_s)
    finally:
        for task in background:
            task.cancel()
        for found in await asyncio.gather(*background, return_exceptions=True):
            if isinstance(found, Exception):
                trouble.violations.append(f"the run itself failed: {found!r}")
    await load.last_batch()
    return watched


async def _watch(gateway: Server, watched: Watched, for_s: float) -> None:
    began_s = time.monotonic()
    await asyncio.sleep(_WARM_UP * for_s)
    while True:
        watched.at_s.append(round(time.monotonic() - began_s, 2))
        watched.bytes.append(resident_bytes(gateway.pid))
        watched.cpu_s.append(cpu_s(gateway.pid))
        await asyncio.sleep((1.0 - _WARM_UP) * for_s / _SAMPLES)


async def _quiet(made: Stage, violations: list[str]) -> Held:
    """What the gateway holds once nothing is under way and everything is back; that it takes too long is a violation."""
    try:
        async with asyncio.timeout(_QUIET_S):
            while not await _is_quiet(made.client):  # noqa: ASYNC110 (another process is asked)
                await asyncio.sleep(0.5)
    except TimeoutError:
        ready = await made.client.ask("/ready")
        violations.append(f"not quiet {_QUIET_S:g} s after the last answer; /ready says {ready.body.decode()}")
    await asyncio.sleep(2.0)  # rows are on disk within about a second
    metrics = await _metrics(made.client)
    pid = made.gateway.pid
    return Held(open_files(pid), threads(pid), round(sum(_values(metrics, "servery_event_loop_tasks"))))


async def _is_quiet(client: Client) -> bool:
    ready = await client.ask("/ready")
    # An engine that died is told of as it was last, until it is back.
    busy = _not_nothing(await _metrics(client), "servery_deployment_requests", "servery_num_requests_running")
    return ready.status == 200 and not busy


async def _left(made: Stage, metrics: str) -> list[str]:
    """What is still under way, here and elsewhere, although nobody waits for it."""
    elsewhere = await _metrics(Client(made.remote.port, _QUIET_S))
    running = ("servery_num_requests_running", "servery_num_requests_waiting")
    found = [f"the gateway's {each}" for each in _not_nothing(metrics, "servery_deployment_requests", *running)]
    found += [f"elsewhere {each}" for each in _not_nothing(elsewhere, *running)]
    if any(_values(metrics, "servery_kv_blocks", 'state="held"')):
        found.append("KV blocks are held when nobody asks")
    if made.faulty.under_way:
        found.append(f"{made.faulty.under_way} requests are under way at the faulty API when nobody asks")
    return found


def _not_nothing(metrics: str, *names: str) -> list[str]:
    found = {name: _values(metrics, name) for name in names}
    return [f"{name} is {values} when nobody asks" for name, values in found.items() if any(values)]


async def _metrics(client: Client) -> str:
    return (await client.ask("/metrics")).body.decode()


def _values(metrics: str, name: str, label: str = "") -> list[float]:
    return [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if re.match(rf"{name}[{{ ]", line) and label in line
    ]


def _log(server: Server) -> list[str]:
    """Lines that a server never writes when all is well."""
    lines = server.log.read_text().splitlines()
    return [
        f"the log says: {' | '.join(lines[at : at + 30])}" for at, line in enumerate(lines) if _BAD_LOG.search(line)
    ]


def _plain(held: Held) -> dict[str, Any]:
    return {"files": dict(held.files), "threads": held.threads, "tasks": held.tasks}
