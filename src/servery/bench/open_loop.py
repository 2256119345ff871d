"""The load: requests go out at times decided before, whether or not earlier ones are answered.

That is what many independent users do, and what a closed loop cannot show: a server that stalls for a second meets a
second's worth of requests after it, and their latencies count from when they were due.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from servery.bench.client import Client
from servery.bench.conversation import converse
from servery.bench.measured import Measured
from servery.bench.pacer import Pacer
from servery.bench.planned import Planned
from servery.bench.sample import Sample
from servery.bench.stop import Stop

_LEAD_S = 0.05  # between making the schedule and its first request


async def run(
    planned: Sequence[Planned],
    connect: Callable[[], Client],
    on_done: Callable[[Sample], bool],
    *,
    load: str,
    stop: Stop | None = None,
) -> Measured:
    """Send all of `planned`, ascending in time, each over a connection that is free or a new one of `connect`.

    `on_done` is told of each sample as it ends; when it returns False, or `stop` is asked, nothing more is sent, and
    what is under way is given up. The samples are those that ended, in the order of the requests, conversations turn by turn.
    """
    free: list[Client] = []
    clients: set[Client] = set()
    samples: dict[tuple[int, int], Sample] = {}
    left = len(planned)
    under_way: set[asyncio.Task[None]] = set()
    is_over = asyncio.get_running_loop().create_future()
    start = time.perf_counter() + _LEAD_S
    cpu_before = time.process_time()

    async def send(index: int) -> None:
        nonlocal left
        client, one = free.pop() if free else connect(), planned[index]
        clients.add(client)
        async with aclosing(converse(client, one.request, one.turns, start + one.at_s)) as turns:
            async for sample in turns:
                samples[index, sample.turn] = sample
                if not on_done(sample):
                    _end(is_over)
        free.append(client)
        left -= 1
        if not left:
            _end(is_over)

    def due(index: int) -> None:
        if not is_over.done():
            task = asyncio.get_running_loop().create_task(send(index))
            under_way.add(task)
            task.add_done_callback(lambda done: _done(done, under_way, is_over))

    if planned:
        pacer = Pacer(asyncio.get_running_loop(), [start + one.at_s for one in planned], due)
        with pacer, (stop or Stop()).ends(lambda: _end(is_over)):
            await is_over
    ended = time.perf_counter()
    await _give_up(under_way)
    for client in clients:
        client.close()
    share = (time.process_time() - cpu_before) / (ended - start + _LEAD_S)
    return Measured([samples[index] for index in sorted(samples)], start, ended, share, load, is_open=True)


def _end(is_over: "asyncio.Future[None]") -> None:
    if not is_over.done():
        is_over.set_result(None)


def _done(task: "asyncio.Task[None]", under_way: "set[asyncio.Task[None]]", is_over: "asyncio.Future[None]") -> None:
    """A fault of this program ends the run and is raised there; `ask` keeps those of the server in the sample."""
    under_way.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None and not is_over.done():
        is_over.set_exception(error)


async def _give_up(under_way: "set[asyncio.Task[None]]") -> None:
    given_up = list(under_way)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
