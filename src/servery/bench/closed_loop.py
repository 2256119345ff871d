"""The load: N clients, each of which sends its next request when its last one is answered.

A closed loop models N users who wait. When the server slows down the load goes down with it, so the percentiles say
nothing about what would happen at a fixed rate of arrivals; that needs an open loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

from servery.bench.client import Client
from servery.bench.conversation import converse
from servery.bench.measured import Measured
from servery.bench.planned import Planned
from servery.bench.sample import Sample
from servery.bench.stop import Stop


async def run(
    clients: Sequence[Client],
    planned: Iterable[Planned],
    on_done: Callable[[Sample], None],
    stop: Stop | None = None,
) -> Measured:
    """Send what is planned in its order, one at a time per client; `on_done` is told of each sample as it ends.

    Once `stop` is asked nothing more is sent, and what is under way is given up.
    """
    waiting = enumerate(planned)
    samples: dict[tuple[int, int], Sample] = {}

    async def work(client: Client) -> None:
        for index, one in waiting:  # shared: each client takes the next one
            async with aclosing(converse(client, one.request, one.turns)) as turns:
                async for sample in turns:
                    samples[index, sample.turn] = sample
                    on_done(sample)

    async def all_work() -> None:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(work(client))

    began, cpu_before = time.perf_counter(), time.process_time()
    await _until_stopped(asyncio.create_task(all_work()), stop or Stop())
    ended = time.perf_counter()
    cpu_share = (time.process_time() - cpu_before) / (ended - began)
    load = f"closed loop, {len(clients)} client{'s' if len(clients) > 1 else ''}"
    return Measured([samples[index] for index in sorted(samples)], began, ended, cpu_share, load)


async def _until_stopped(work: "asyncio.Task[None]", stop: Stop) -> None:
    with stop.ends(work.cancel):
        try:
            await work
        except asyncio.CancelledError:
            if not stop.is_asked:
                raise
