"""What an engine says of itself while it is measured: its queue, its KV memory, and what first tokens waited for.

Read from its metrics every two seconds, and at both ends of a run; this server's names and vLLM's are the same but for
what they begin with. Rendering its metrics costs a server some milliseconds, so it is not done more often.
"""

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from servery.bench.client import Client
from servery.bench.errors import ClientError

PAUSE_S = 2.0
_KEPT = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "num_preemptions_total",
    "time_to_first_token_seconds_sum",
    "time_to_first_token_seconds_count",
    "request_queue_time_seconds_sum",
    "request_queue_time_seconds_count",
)
_LINE = re.compile(
    rf"^(?:servery_|vllm:)({'|'.join(_KEPT)})\{{([^}}]*)\}} (\d+(?:\.\d+)?(?:e[+-]?\d+)?)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Moment:
    """How an engine was, `at_s` seconds after the run began; `preemptions` are those since then."""

    at_s: float
    running: int
    waiting: int
    kv_share: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """What the time to first tokens was spent on, milliseconds, means over what the server finished during the run.

    `queue` is until a request was scheduled first, `prefill` from there to its first token, `way` what the client saw
    beyond that: the network, the server before and behind its engine, this client.
    """

    queue_ms: float
    prefill_ms: float
    way_ms: float


Readings = dict[str, list[float]]


def readings(metrics: str, model: str) -> Readings:
    """The values of `model` by name, one for each of its engines; nothing of a server that tells none of them."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for name, labels, value in _LINE.findall(metrics):
        if f'model_name="{model}"' in labels:
            found[name].append(float(value))
    return dict(found)


def moment(now: Readings, before: Readings, at_s: float) -> Moment | None:
    """None where the server does not say how full its KV memory is."""
    if "kv_cache_usage_perc" not in now:
        return None
    usage = now["kv_cache_usage_perc"]
    return Moment(
        at_s=at_s,
        running=round(_sum(now, "num_requests_running")),
        waiting=round(_sum(now, "num_requests_waiting")),
        kv_share=sum(usage) / len(usage),
        preemptions=round(_sum(now, "num_preemptions_total") - _sum(before, "num_preemptions_total")),
    )


def first_tokens(before: Readings, after: Readings, ttft_ms: float | None) -> FirstTokens | None:
    """Of the requests between two readings, of which the client saw `ttft_ms` on average from when it sent them."""
    queue_ms = _mean_ms(before, after, "request_queue_time")
    server_ms = _mean_ms(before, after, "time_to_first_token")
    if queue_ms is None or server_ms is None or ttft_ms is None:
        return None
    return FirstTokens(queue_ms, max(0.0, server_ms - queue_ms), max(0.0, ttft_ms - server_ms))


def _mean_ms(before: Readings, after: Readings, name: str) -> float | None:
    seconds, count = (
        _sum(after, f"{name}_seconds_{part}") - _sum(before, f"{name}_seconds_{part}") for part in ("sum", "count")
    )
    return 1e3 * seconds / count if count > 0 and seconds >= 0 else None


def _sum(of: Readings, name: str) -> float:
    return sum(of.get(name, ()))


@asynccontextmanager
async def watched(client: Client, model: str, before: Readings) -> AsyncIterator[list[Moment]]:
    """Note how the engine is every `PAUSE_S` while this lasts; nothing where `before` says nothing of its KV memory.

    The times are those of `time.perf_counter` until the run's beginning is known; see `since`.
    """
    seen: list[Moment] = []
    if "kv_cache_usage_perc" not in before:
        yield seen
        return
    watching = asyncio.create_task(_watch(client, model, before, seen))
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(client: Client, model: str, before: Readings, seen: list[Moment]) -> None:
    with contextlib.suppress(ClientError):  # it ends here; what it meets, the load meets as well and tells
        while True:
            now = readings(await client.metrics(), model)
            if (found := moment(now, before, perf_counter())) is not None:
                seen.append(found)
            await asyncio.sleep(PAUSE_S)


def since(seen: list[Moment], began: float) -> list[Moment]:
    """The same, their times counted from `began`."""
    return [Moment(one.at_s - began, one.running, one.waiting, one.kv_share, one.preemptions) for one in seen]
