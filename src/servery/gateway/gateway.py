"""The gateway as a server holds it: the fleet of now, and the way of every exchange through it."""

import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from servery.gateway.admit.limits.limiter import Limiter
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.dispatch.slo_placement import CheapestWithinSlo
from servery.gateway.exchange import Client, Exchange
from servery.gateway.fleet import Fleet
from servery.gateway.pipeline import Pipeline
from servery.gateway.settle.content import Overheard
from servery.gateway.settle.record import Record
from servery.gateway.settle.settle import Book
from servery.telemetry.deployment_metrics import DeploymentFigures, PredictionFigures
from servery.telemetry.metrics import Metrics
from servery.telemetry.traces.trace import Onward, Trace
from servery.upstream.ask import Ask
from servery.upstream.upstream import Upstream


class Gateway:
    """Answers requests with what `fleet` has now. To `swap` it is one step: exchanges under way keep the fleet they have."""

    fleet: Fleet

    def __init__(
        self,
        fleet: Fleet,
        metrics: Metrics,
        book: Book | None = None,
        *,
        limiter: Limiter | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock` is monotonic, `chance` gives numbers in [0, 1). Without a `limiter` this process counts by itself."""
        self._metrics = metrics
        self._clock = clock
        self._limiter = limiter or Limiter(MemoryLimits(clock), metrics.gateway)
        self._pipeline = Pipeline(metrics, book, limiter=self._limiter, clock=clock, chance=chance)
        # Have an exchange answered; raises `ApiError` with what the client is to be told.
        self.handle: Callable[[Exchange], Coroutine[Any, Any, None]] = self._pipeline.handle
        self.swap(fleet)
        self._expect(fleet)
        metrics.gateway.watch(self.figures)
        metrics.gateway.watch_predictions(self.predictions)

    @property
    def upstreams(self) -> list[Upstream]:
        """What speaks to the deployments of now."""
        return [each.upstream for each in self.fleet.deployments.values()]

    async def close(self) -> None:
        """Let go of where limits are counted; the upstreams are whose who made them."""
        await self._limiter.close()

    def swap(self, fleet: Fleet) -> None:
        """Let further exchanges have another fleet, and its bounds count."""
        fleet.enforce()
        self.fleet = fleet
        self._expect(fleet)

    def _expect(self, fleet: Fleet) -> None:
        """Let all that may be counted be there before it is."""
        exchanges = self._metrics.gateway.exchanges
        for name, served in fleet.models.items():
            exchanges.expect(name, None, None)
            for each in served.deployments:
                exchanges.expect(name, each.name, each.config.tier.value)

    def exchange(
        self,
        ask: Ask,
        client: Client,
        *,
        request_id: str,
        arrived_s: float,
        deadline_s: float,
        keep_alive_s: float,
        cut_by: Callable[[], str | None] = lambda: None,
        trace: Trace | None = None,
        onward: Onward | None = None,
        task: str | None = None,
    ) -> Exchange:
        """A new one, with the fleet of now."""
        return Exchange(
            ask=ask,
            client=client if trace is None or not trace.with_content else Overheard(client),
            fleet=self.fleet,
            record=Record(self._metrics, ask.base, arrived_s, self._clock, shown=ask.model),
            request_id=request_id,
            arrived_s=arrived_s,
            deadline_s=deadline_s,
            keep_alive_s=keep_alive_s,
            cut_by=cut_by,
            trace=trace,
            onward=onward,
            task=task,
        )

    async def collect(self, ask: Ask, request_id: str, trace: Trace | None = None) -> bytes:
        """The body of an answer that is not streamed, for somebody in this process; raises `ApiError`."""
        now, client = self._clock(), _Collected()
        total_s = self.fleet.served(ask.base).config.timeouts.total_s
        exchange = self.exchange(
            ask,
            client,
            request_id=request_id,
            arrived_s=now,
            deadline_s=now + total_s,
            keep_alive_s=total_s,
            trace=trace,
        )
        await self.handle(exchange)
        return client.body

    def figures(self) -> list[DeploymentFigures]:
        """How every deployment is now."""
        now = self._clock()
        return [
            DeploymentFigures(
                name=each.name,
                tier=each.config.tier.value,
                in_flight=each.slots.in_flight,
                waiting=each.slots.waiting,
                breaker=each.breaker.state.value,
                opened=each.breaker.opened,
                throttled_s=each.throttle.retry_after_s(now),
                is_missed=each.is_missed,
            )
            for each in self.fleet.deployments.values()
        ]

    def predictions(self) -> list[PredictionFigures]:
        """How good the predictions were, of models that are placed by them."""
        return [
            PredictionFigures(
                model=served.name,
                deployment=name,
                predictions=tally.predictions,
                predicted_s=tally.predicted_s,
                actual_s=tally.actual_s,
                error_s=tally.error_s,
            )
            for served in self.fleet.models.values()
            if isinstance(served.placement, CheapestWithinSlo)
            for name, tally in served.placement.tallies.items()
        ]


class _Collected:
    """A client in the same process: the answer's body."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    async def stream(self, events: bytes) -> None:
        """Take events of a stream."""
        self.body += events

    def stream_at_once(self, events: bytes) -> bool:
        """Take them."""
        self.body += events
        return True

    async def end_stream(self) -> None:
        """Nothing more comes."""

    async def whole(self, body: bytes) -> None:
        """Take the body."""
        self.body = body

    def keep_alive(self) -> None:
        """Nobody minds the silence."""
