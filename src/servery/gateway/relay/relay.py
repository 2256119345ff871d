"""From an answer that has begun to the client: as it comes, with silence broken, stalls noticed and cuts mended."""

import contextlib
from collections.abc import Awaitable, Callable

from servery.gateway.dispatch.attempt import Attempt
from servery.gateway.dispatch.dispatch import Dispatcher, Opened
from servery.gateway.dispatch.patience import Patience
from servery.gateway.exchange import Exchange
from servery.gateway.relay.continuation import Diverged
from servery.gateway.relay.flow import Flow
from servery.gateway.relay.keeping import Keeping, keeping
from servery.gateway.relay.resume import Resumption
from servery.gateway.relay.silence import Silence
from servery.gateway.relay.transcript import Transcript
from servery.upstream.failure import Deadline, UpstreamFailure
from servery.upstream.upstream import Chunk


def relay_whole(exchange: Exchange, opened: Opened, clock: Callable[[], float]) -> Awaitable[None]:
    """Send an answer that is not streamed, of which all has come."""
    opened.attempt.succeed()
    kept = keeping(exchange, clock)
    if kept is None:
        return exchange.client.whole(opened.first.data)
    kept.add(opened.first.data)
    return _kept_whole(exchange, opened, kept)


async def _kept_whole(exchange: Exchange, opened: Opened, kept: Keeping) -> None:
    await exchange.client.whole(opened.first.data)
    kept.end()


class Relay:
    """Brings one exchange's stream to its client, whose `silence` it breaks."""

    def __init__(
        self, exchange: Exchange, silence: Silence, dispatcher: Dispatcher, clock: Callable[[], float]
    ) -> None:
        self._exchange = exchange
        self._silence = silence
        self._dispatcher = dispatcher
        self._clock = clock
        self._resumption: Resumption | None = None
        self._keeping = keeping(exchange, clock)

    async def run(self, opened: Opened) -> None:
        """Send all of a stream; raises `UpstreamFailure` when it is cut short and nobody can go on with it."""
        await self._stream(opened)
        if self._keeping is not None:
            self._keeping.end()

    async def _stream(self, opened: Opened) -> None:
        attempt, transcript = opened.attempt, Transcript(opened.form, self._exchange.ask)
        first: Chunk | None = opened.first
        cut: UpstreamFailure | None = None
        while True:
            try:
                async with contextlib.aclosing(attempt.chunks):
                    await self._pass_on(attempt, transcript, first)
                break
            except UpstreamFailure as failure:
                cut = _cause(cut, attempt, failure)
                attempt, first = await self._resumed(attempt, transcript, cut), None
            except Diverged:
                raise cut or ValueError("the first answer has nothing to diverge from") from None
        await self._exchange.client.end_stream()

    async def _resumed(self, attempt: Attempt, transcript: Transcript, cut: UpstreamFailure) -> Attempt:
        if self._resumption is None:
            self._resumption = Resumption(self._exchange, self._dispatcher, self._clock)
        return await self._resumption.go_on(attempt, transcript, cut)

    async def _pass_on(self, attempt: Attempt, transcript: Transcript, first: Chunk | None) -> None:
        """Send what comes, behind `first` which was read before; an attempt without goes on with another's answer."""
        timeouts, is_awaited = self._exchange.model.config.timeouts, first is None
        limits = (Deadline.STALL, timeouts.stall_s)
        begin = (Deadline.FIRST_TOKEN, timeouts.first_token_s) if is_awaited else limits
        with attempt.judged(), Patience(attempt.deployment.name, *begin) as patience:
            flow = Flow(self._exchange, attempt, transcript, patience, self._silence, self._keeping, self._clock)
            if first is not None:
                await self._send(transcript.tell(first), flow, patience)
                if attempt.sink is not None:
                    attempt.sink.take = flow.take
            async for chunk in attempt.chunks:
                if is_awaited and (chunk.data or chunk.tokens):
                    is_awaited = False
                    patience.expect(*limits)
                data = flow.told(chunk)
                if data:
                    await self._send(data, flow, patience)
        attempt.succeed()

    async def _send(self, data: bytes, flow: Flow, patience: Patience) -> None:
        """It is the client's turn until it has taken this."""
        self._exchange.is_begun = True
        flow.sent(data)
        patience.pause()
        await self._exchange.client.stream(data)
        patience.resume()


def _cause(cut: UpstreamFailure | None, attempt: Attempt, failure: UpstreamFailure) -> UpstreamFailure:
    """Why the answer stopped: not because of one that was to go on with it, and gave nothing."""
    return failure if cut is None or attempt.tokens or not failure.may_go_elsewhere else cut
