"""An answer that was cut short in the middle goes on elsewhere, from exactly what the client has; or it is told so.

A deployment takes it up as its configuration says (`continues`): one that repeats itself writes the answer again, and what
the client has is checked and left out; one that goes on with a message of the assistant's is given what there is of it.
"""

from collections.abc import Callable

from servery.config.types import Continues
from servery.gateway.dispatch.attempt import Attempt
from servery.gateway.dispatch.deployment import Deployment, Standing
from servery.gateway.dispatch.dispatch import Dispatcher
from servery.gateway.exchange import Exchange
from servery.gateway.relay.continuable import can_be_continued, can_be_repeated
from servery.gateway.relay.transcript import Transcript
from servery.upstream.failure import UpstreamFailure


class Resumption:
    """Finds who goes on with one exchange's answer; nobody is asked for it twice."""

    def __init__(self, exchange: Exchange, dispatcher: Dispatcher, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._dispatcher = dispatcher
        self._clock = clock
        self._asked: set[str] = set()

    async def go_on(self, cut: Attempt, transcript: Transcript, failure: UpstreamFailure) -> Attempt:
        """The attempt that goes on with the answer of `cut`; raises `failure` if there can be none."""
        served = self._exchange.model
        self._asked.add(cut.deployment.name)
        while self._may_resume(transcript, failure):
            deployment = self._next(transcript)
            if deployment is None or not served.budget.take(self._clock()):
                break
            self._asked.add(deployment.name)
            try:
                return await self._begin(deployment, transcript)
            except UpstreamFailure:
                continue  # the next one, if there is any
        raise failure

    def _may_resume(self, transcript: Transcript, failure: UpstreamFailure) -> bool:
        exchange = self._exchange
        is_words = exchange.ask.is_stream and can_be_repeated(exchange.ask)
        is_left = len(exchange.attempts) < exchange.model.config.retry.attempts
        return is_words and is_left and failure.may_go_elsewhere and transcript.learn()

    def _next(self, transcript: Transcript) -> Deployment | None:
        """The best deployment that can go on with it; an answer under way is neither refused nor made to wait."""
        served = self._exchange.model
        tiers = [[each for each in tier if self._can(each, transcript)] for tier in served.tiers]
        order = served.placement.rank([tier for tier in tiers if tier], self._exchange.ask).order
        return next(iter(order), None)

    def _can(self, deployment: Deployment, transcript: Transcript) -> bool:
        if deployment.name in self._asked or deployment.standing() in (Standing.AWAY, Standing.UNREADY):
            return False
        if deployment.config.continues is Continues.PREFILL:
            return not deployment.is_own and can_be_continued(self._exchange.ask) and bool(transcript.said().text)
        return deployment.config.continues is Continues.REPLAY and self._exchange.ask.head.is_repeatable

    async def _begin(self, deployment: Deployment, transcript: Transcript) -> Attempt:
        exchange = self._exchange
        if deployment.config.continues is Continues.REPLAY:
            attempt = await self._dispatcher.open_at(exchange, deployment, exchange.call())
            transcript.repeat()
        else:
            call = exchange.call(continued=transcript.said().text, spent_tokens=transcript.tokens)
            attempt = await self._dispatcher.open_at(exchange, deployment, call)
            transcript.go_on()
        return attempt
