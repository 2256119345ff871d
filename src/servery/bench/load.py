"""One load on a server: warm up, then measure, in a closed or an open loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servery.bench import closed_loop, open_loop
from servery.bench.measured import Measured
from servery.bench.open_loop import Planned
from servery.bench.options import LoadOptions
from servery.bench.sample import Sample
from servery.bench.target import Target
from servery.bench.watch import Watch

WARMUP_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """When to stop early: asked with each sample that ended; False ends the run."""

    goes_on: Callable[[Sample], bool] = lambda _: True


async def warm_up(target: Target, planned: Sequence[Planned], load: LoadOptions, watch: Watch) -> None:
    """Send the first requests, one at a time per client, and count none of them."""
    if planned:
        with watch.part("warming up", len(planned)) as seen:
            await _closed(target, planned, load.concurrency or WARMUP_CLIENTS, seen)


async def measure(
    target: Target, planned: Sequence[Planned], load: LoadOptions, watch: Watch, rules: Rules | None = None
) -> Measured:
    """Send the requests that count."""
    with watch.part(load.words, len(planned)) as seen:
        if load.concurrency is not None:
            return await _closed(target, planned, load.concurrency, seen)

        def ended(sample: Sample) -> bool:
            seen(sample)
            return rules is None or rules.goes_on(sample)

        return await open_loop.run(planned, target.connect, ended, load=load.words)


async def _closed(
    target: Target, planned: Sequence[Planned], concurrency: int, seen: Callable[[Sample], None]
) -> Measured:
    clients = [target.connect() for _ in range(concurrency)]
    try:
        return await closed_loop.run(clients, [one.request for one in planned], seen)
    finally:
        for client in clients:
            client.close()
