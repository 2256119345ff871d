"""The load: N clients, each of which sends its next request when its last one is answered.

A closed loop models N users who wait. When the server slows down the load goes down with it, so the percentiles say
nothing about what would happen at a fixed rate of arrivals; that needs an open loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from servery.bench.client import Client
from servery.bench.measured import Measured
from servery.bench.sample import Sample, ask


async def run(
    clients: Sequence[Client], requests: Iterable[dict[str, Any]], on_done: Callable[[Sample], None]
) -> Measured:
    """Send `requests` in their order, one at a time per client; `on_done` is told of each as it ends."""
    waiting = enumerate(requests)
    samples: dict[int, Sample] = {}

    async def work(client: Client) -> None:
        for index, request in waiting:  # shared: each client takes the next one
            samples[index] = await ask(client, request)
            on_done(samples[index])

    began, cpu_before = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
    ended = time.perf_counter()
    cpu_share = (time.process_time() - cpu_before) / (ended - began)
    load = f"closed loop, {len(clients)} client{'s' if len(clients) > 1 else ''}"
    return Measured([samples[index] for index in sorted(samples)], began, ended, cpu_share, load)
