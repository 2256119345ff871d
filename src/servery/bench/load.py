"""One load on a server: warm up, then measure, in a closed or an open loop."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from servery.bench import closed_loop, open_loop
from servery.bench.measured import Measured
from servery.bench.options import LoadOptions
from servery.bench.planned import Planned, number_of_requests
from servery.bench.sample import Sample
from servery.bench.stop import Stop
from servery.bench.target import Target
from servery.bench.watch import Watch

WARMUP_CLIENTS = 8


GoesOn: TypeAlias = Callable[[Sample], bool]  # asked with each sample that ended; False ends the run


async def warm_up(target: Target, planned: Sequence[Planned], load: LoadOptions, watch: Watch, stop: Stop) -> None:
    """Send the first requests, one at a time per client, and count none of them."""
    if planned:
        with watch.part("warming up", number_of_requests(planned)) as seen:
            await _closed(target, planned, load.concurrency or WARMUP_CLIENTS, seen, stop)


async def measure(
    target: Target,
    planned: Sequence[Planned],
    load: LoadOptions,
    watch: Watch,
    stop: Stop,
    goes_on: GoesOn | None = None,
) -> Measured:
    """Send the requests that count, until `goes_on` or `stop` ends it."""
    with watch.part(load.words, number_of_requests(planned)) as seen:
        if load.concurrency is not None:
            return await _closed(target, planned, load.concurrency, seen, stop)

        def ended(sample: Sample) -> bool:
            seen(sample)
            return goes_on is None or goes_on(sample)

        return await open_loop.run(planned, target.connect, ended, load=load.words, stop=stop)


async def _closed(
    target: Target, planned: Sequence[Planned], concurrency: int, seen: Callable[[Sample], None], stop: Stop
) -> Measured:
    clients = [target.connect() for _ in range(concurrency)]
    try:
        return await closed_loop.run(clients, planned, seen, stop)
    finally:
        for client in clients:
            client.close()
