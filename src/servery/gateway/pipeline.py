"""The way of every exchange, in its order: admit, dispatch, relay, settle. The only file that knows it."""

import random
import time
from collections.abc import Callable

from servery.gateway.admit.choice import choose
from servery.gateway.admit.limits.limiter import Limiter
from servery.gateway.admit.shed import shed
from servery.gateway.dispatch.dispatch import Dispatcher
from servery.gateway.exchange import Exchange
from servery.gateway.relay.keeping import tell_earlier
from servery.gateway.relay.relay import Relay, relay_whole
from servery.gateway.relay.silence import Silence
from servery.gateway.settle.settle import Book, Settlement
from servery.gateway.settle.told import told
from servery.telemetry.metrics import Metrics
from servery.upstream.failure import UpstreamFailure


class Pipeline:
    """Brings exchanges to their end. `clock` is monotonic, `wall` Unix time, `chance` gives numbers in [0, 1)."""

    def __init__(
        self,
        metrics: Metrics,
        book: Book | None = None,
        *,
        limiter: Limiter,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._limiter = limiter
        self._dispatcher = Dispatcher(clock, chance)
        self._settlement = Settlement(metrics, book, clock, wall)

    async def handle(self, exchange: Exchange) -> None:
        """Have the exchange answered. Raises `ApiError` with what its client is to be told, as a status or in-band."""
        error: BaseException | None = None
        self._settlement.begin(exchange)
        try:
            choose(exchange)
            shed(exchange)
            await self._limiter.admit(exchange)
            if exchange.trace is not None:
                exchange.admitted_s = self._clock()
            if exchange.ask.is_stream:
                with Silence(exchange.client, exchange.keep_alive_s) as silence:
                    await self._answer(exchange, silence)
            else:
                await self._answer(exchange, None)
        except UpstreamFailure as failure:
            error = failure
            raise told(failure) from failure
        except BaseException as other:
            error = other
            raise
        finally:
            self._settlement.settle(exchange, error)

    async def _answer(self, exchange: Exchange, silence: Silence | None) -> None:
        try:
            try:
                opened = await self._dispatcher.open(exchange)
            finally:
                exchange.name_server()
        except UpstreamFailure:
            if not await tell_earlier(exchange, self._clock()):
                raise
        else:
            if silence is None:
                await relay_whole(exchange, opened, self._clock)
            else:
                await Relay(exchange, silence, self._dispatcher, self._clock).run(opened)
