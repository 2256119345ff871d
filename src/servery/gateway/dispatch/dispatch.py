"""From a request to an answer that has begun: until its first chunk reaches nobody, everything may be tried again.

Places are tried in the order of the model's placement. A retry is taken from the model's retry budget; it waits by chance
(full jitter) when it goes where it failed before, and as long as it was told to when that is short. Then come the models
that may answer instead.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from servery.gateway.dispatch.attempt import RESUMED, Attempt
from servery.gateway.dispatch.backoff import full_jitter_s
from servery.gateway.dispatch.declined import MOST_HELD_BYTES, declines, joined
from servery.gateway.dispatch.deployment import Deployment, Lease, Standing
from servery.gateway.dispatch.fallback import stand_ins
from servery.gateway.dispatch.fitting import fitting
from servery.gateway.dispatch.hedge import first_to_begin
from servery.gateway.dispatch.in_turn import in_turn
from servery.gateway.dispatch.late_form import LateForm
from servery.gateway.dispatch.outlier import outliers
from servery.gateway.dispatch.patience import Patience
from servery.gateway.dispatch.place import Ranked
from servery.gateway.dispatch.served import Served
from servery.gateway.dispatch.turns import TurnsFull
from servery.gateway.exchange import Exchange
from servery.upstream.ask import Api
from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.upstream.upstream import Call, Chunk
from servery.wire.errors import ApiError

if TYPE_CHECKING:
    from servery.gateway.settle.record import Record


_NO_WORDS = (Api.EMBEDDINGS, Api.RERANK)


class Opened(msgspec.Struct, frozen=True):
    """An answer that has begun: the first piece with data of a stream, or all of one that is not streamed.

    `form` is what wrote it, if anybody did; `record` has counted what came.
    `is_refusal`: it is the whole of an answer that declines to answer, where others may be asked.
    """

    attempt: Attempt
    first: Chunk
    form: LateForm
    record: "Record"
    is_refusal: bool = False


class Dispatcher:
    """Sends requests where they are answered. `random` gives numbers in [0, 1)."""

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random

    def open(self, exchange: Exchange) -> Coroutine[Any, Any, Opened]:
        """An answer that has begun, of the exchange's model or of one that stands in for it.

        Raises `UpstreamFailure` when all has been tried that may be, `ApiError` for what is the client's own fault.
        """
        if exchange.model.has_stand_ins:
            return self._open_any(exchange)
        return _Search(exchange, exchange.model, self._clock, self._random).open()

    async def _open_any(self, exchange: Exchange) -> Opened:
        errors: list[ApiError | UpstreamFailure] = []
        refused: list[Opened] = []
        waiting: list[str] = []
        known = {exchange.model.name}
        while True:
            served = exchange.model
            found: Sequence[str] = served.config.fallbacks.content_policy
            try:
                opened = await _Search(exchange, served, self._clock, self._random).open()
                if not opened.is_refusal:
                    return opened
                refused.append(opened)
            except (ApiError, UpstreamFailure) as error:
                errors.append(error)
                found = stand_ins(served.config.fallbacks, error)
            waiting[:0] = [name for name in found if name not in known]
            known.update(found)
            if not waiting:
                break
            exchange.turn_to(exchange.fleet.served(waiting.pop(0)))
        if refused:
            return _returned(exchange, refused[0])
        raise errors[0]

    async def open_at(self, exchange: Exchange, deployment: Deployment, call: Call) -> Attempt:
        """An attempt at one deployment, nothing of it read; raises `UpstreamFailure` when it cannot take it."""
        return await _Search(exchange, exchange.model, self._clock, self._random).enter(deployment, call)


def _returned(exchange: Exchange, refused: Opened) -> Opened:
    """The refusal after all: nobody else would answer."""
    exchange.turn_to(exchange.fleet.served(refused.attempt.ask.base))
    exchange.answer_by(refused.attempt)
    exchange.record.take(refused.record)
    return refused


class _Search:
    """The deployments of one model, tried one after the other for one exchange."""

    __slots__ = (
        *("_attempts", "_clock", "_exchange", "_failed", "_full", "_is_begun", "_is_over_budget", "_minds_refusals"),
        *("_queued_s", "_random", "_retry", "_served", "_why"),
    )

    def __init__(
        self, exchange: Exchange, served: Served, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._exchange = exchange
        self._served = served
        self._retry = served.config.retry
        self._clock = clock
        self._random = random
        self._failed = _silent(exchange.attempts) if exchange.attempts else {}
        self._full: set[str] = set()
        self._is_over_budget = False
        self._is_begun = False
        self._queued_s: float | None = None  # since when it waits for its turn
        self._attempts = 0
        self._minds_refusals = bool(served.config.fallbacks.content_policy) and exchange.ask.api not in _NO_WORDS
        self._why = RESUMED  # unless it is sought

    async def open(self) -> Opened:
        self._served.budget.count(self._clock())
        lease = self._lease_at_once()
        while True:
            deployment = await self._next(self._ranked_now()) if lease is None else lease.deployment
            after_s = self._hedged_after_s(deployment) if lease is None else None
            try:
                if after_s is not None:
                    return await self._begin(deployment, after_s)
                record, given, lease = self._exchange.record, lease, None
                record.restart(self._served.name)
                if self._exchange.unbounded is None:
                    return await self._attempt(deployment, record, given)
                return await fitting(self._exchange, partial(self._attempt, deployment, record), given)
            except UpstreamFailure as failure:
                if deployment.name in self._full:  # it had no place: that is no attempt
                    continue
                if not failure.may_go_elsewhere:
                    raise
                if not self._may_retry():
                    raise self._spent(failure) from failure

    async def _begin(self, deployment: Deployment, after_s: float) -> Opened:
        """An answer that has begun there, or at another deployment that was asked because this one took its time."""
        record, began_s = self._exchange.record, self._clock()
        opened = await first_to_begin(
            fitting(self._exchange, partial(self._attempt, deployment, record.anew(self._served.name))),
            after_s,
            lambda: self._hedge(deployment),
            lambda loser: loser.attempt.close(),
        )
        if opened.attempt.is_hedge:  # how long the other would have taken is not known, only that it is longer
            deployment.ttfts.add(self._clock() - began_s)
        record.take(opened.record)
        self._exchange.answer_by(opened.attempt)
        return opened

    def _hedged_after_s(self, deployment: Deployment) -> float | None:
        """After how long another deployment is asked besides; None: not at all.

        An answer that is not streamed begins with its end: nobody knows whether it is late. What is in the background has
        time.
        """
        hedge, ask = self._served.config.hedge, self._exchange.ask
        if hedge is None or not ask.is_stream or ask.priority > 0:
            return None
        return deployment.ttfts.quantile(hedge.quantile) if hedge.quantile is not None else hedge.after_s

    def _hedge(self, slow: Deployment) -> Coroutine[Any, Any, Opened] | None:
        """An attempt beside the one at `slow`, where there is a place at once, and an attempt left in the budget."""
        if self._is_begun or self._attempts >= self._retry.attempts:
            return None
        ranked = self._ranked()
        if ranked.refusal is not None:  # nobody would be sent anywhere now
            return None
        others = [each for each in ranked.order if each is not slow and each.name not in self._failed]
        free = [each for each in others if each.standing() is Standing.FREE]
        if not free or not self._served.budget.take(self._clock()):
            return None
        return self._attempt(free[0], self._exchange.record.anew(self._served.name), is_hedge=True)

    def _lease_at_once(self) -> Lease | None:
        """A place at the model's only deployment, if it has one now and nobody waits: then there is nothing to rank."""
        alone = self._served.alone
        if alone is None or self._failed or self._served.turns.queue:
            return None
        self._why = self._served.placement.why_alone or ""
        return alone.enter_at_once()

    async def enter(self, deployment: Deployment, call: Call, lease: Lease | None = None) -> Attempt:
        exchange = self._exchange
        lease = lease or deployment.enter_at_once() or await self._lease(deployment)
        ask = exchange.ask
        try:
            watch = self._served.placement.sent(deployment, ask)
            parts = deployment.upstream.answer(ask, call)
        except BaseException:
            lease.leave()
            raise
        attempt = Attempt(ask, lease, parts, self._clock, watch, self._why, exchange.request_id, call.onward, call.sink)
        exchange.attempts.append(attempt)
        return attempt

    async def _lease(self, deployment: Deployment) -> Lease:
        """A place there, waited for as long as may be; raises `UpstreamFailure`."""
        if deployment.slots.is_free:
            return await deployment.enter(self._exchange.ask.priority)
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._turn_left_s()):
                return await deployment.enter(self._exchange.ask.priority)
        except TimeoutError:
            raise deployment.full() from None
        finally:
            self._exchange.waited_s += self._clock() - began_s

    async def _attempt(
        self, deployment: Deployment, record: "Record", lease: Lease | None = None, *, is_hedge: bool = False
    ) -> Opened:
        """`lease` is the place there, where there is one already."""
        exchange, form = self._exchange, LateForm(self._exchange.ask.form)
        try:
            attempt = await self.enter(deployment, exchange.call(form), lease)
        except UpstreamFailure as failure:
            self._full.add(deployment.name)
            self._failed.setdefault(deployment.name, failure)
            raise
        self._attempts += 1
        attempt.is_hedge = is_hedge
        try:
            if exchange.ask.is_stream:
                first, is_refusal = await self._first(attempt, record)
            elif (limit_s := self._whole_limit_s(attempt)) is None:
                first, is_refusal = await self._all(attempt, record, None)
            else:
                first, is_refusal = await self._whole(attempt, record, limit_s)
        except BaseException as raised:
            error = attempt.fault(raised) or raised
            if isinstance(error, UpstreamFailure):
                self._failed[deployment.name] = error
                self._eject_outliers(error)
            await attempt.close()
            if error is raised:
                raise
            raise error from raised
        if is_refusal:
            attempt.succeed()
            return Opened(attempt, first, form, record.kept(), is_refusal=True)
        return Opened(attempt, first, form, record)

    async def _first(self, attempt: Attempt, record: "Record") -> tuple[Chunk, bool]:
        """The first piece with data of a stream, and whether it is all of a refusal that others may mend.

        Progress without data shows that the model is at work. Where refusals are minded, what comes before the first word
        is held back, and of a refusal all.
        """
        timeouts, held, is_refusal = self._served.config.timeouts, list[Chunk](), False
        with Patience(attempt.deployment.name, Deadline.FIRST_TOKEN, timeouts.first_token_s) as patience:
            async for chunk in attempt.chunks:
                is_refusal = is_refusal or (self._minds_refusals and declines(chunk, attempt.tokens))
                self._take(attempt, chunk, record)
                if chunk.data:
                    held.append(chunk)
                if held and not (is_refusal or (self._minds_refusals and not attempt.tokens)):
                    return joined(held), False
                if is_refusal and sum(len(each.data) for each in held) > MOST_HELD_BYTES:
                    return joined(held), False
                if chunk.tokens:
                    patience.advance(Deadline.STALL, timeouts.stall_s)
        if not held:
            raise _nothing(attempt)
        return joined(held), is_refusal

    async def _whole(self, attempt: Attempt, record: "Record", limit_s: float) -> tuple[Chunk, bool]:
        """All of an answer that is not streamed and has to begin in time."""
        with Patience(attempt.deployment.name, Deadline.FIRST_TOKEN, limit_s) as patience:
            return await self._all(attempt, record, patience)

    async def _all(self, attempt: Attempt, record: "Record", patience: Patience | None) -> tuple[Chunk, bool]:
        """All of an answer that is not streamed, and whether it is a refusal that others may mend."""
        pieces: list[Chunk] = []
        async for chunk in attempt.chunks:
            if patience is not None and chunk.tokens:
                patience.advance(Deadline.STALL, self._served.config.timeouts.stall_s)
            self._take(attempt, chunk, record)
            if chunk.data or chunk.is_refusal:
                pieces.append(chunk)
        whole = pieces[0] if len(pieces) == 1 else Chunk(data=b"".join([each.data for each in pieces]))
        if not whole.data:
            raise _nothing(attempt)
        return whole, self._minds_refusals and any(each.is_refusal for each in pieces)

    def _whole_limit_s(self, attempt: Attempt) -> float | None:
        """How long it may take to begin. An engine of this process tells of its first token; others begin with the end."""
        ask, timeouts = self._exchange.ask, self._served.config.timeouts
        is_telling = attempt.deployment.is_own and ask.api not in (Api.EMBEDDINGS, Api.RERANK)
        if is_telling and ask.priority <= 0:
            return timeouts.first_token_s
        return None if is_telling else timeouts.answer_s

    def _take(self, attempt: Attempt, chunk: Chunk, record: "Record") -> None:
        if chunk.tokens:
            self._is_begun = True
        now = self._clock()
        attempt.add(chunk, now)
        record.add(chunk, now)

    async def _next(self, ranked: Ranked | None) -> Deployment:
        """Where to send it now; waits where it was told to, if that is short. Raises `UpstreamFailure` if nowhere.

        `ranked` is the rank of now, None where others wait for their turn.
        """
        while True:
            if ranked is None or ranked.wait_s is not None:
                ranked = await self._ranked_in_turn()
            if ranked.refusal is not None:
                raise ranked.refusal
            self._why = ranked.why
            order = ranked.order if len(ranked.order) < 2 else sorted(ranked.order, key=self._is_second_choice)
            if order:
                if order[0].name in self._failed:
                    await self._wait(full_jitter_s(self._retry, self._attempts - 1, self._random()))
                return order[0]
            absent = self._absence()
            wait_s = absent.retry_after_s
            if absent.kind is not Kind.THROTTLED or wait_s is None or wait_s > self._retry.max_s or self._attempts == 0:
                raise self._failure(absent)
            await self._wait(wait_s)
            ranked = self._ranked_now()

    def _ranked_now(self) -> Ranked | None:
        """The rank, unless others wait for their turn."""
        return None if self._served.turns.waiting else self._ranked()

    async def _ranked_in_turn(self) -> Ranked:
        """The rank when it says that the request may go; raises `UpstreamFailure` if that takes too long."""
        exchange, turns = self._exchange, self._served.turns
        began_s = self._clock()
        try:
            return await in_turn(turns, exchange.ask.priority, exchange.arrived_s, self._ranked, self._queue_left_s)
        except TurnsFull:
            message = f"{turns.waiting} requests for '{self._served.name}' wait for their turn, as many as may."
            raise self._spent(UpstreamFailure(Kind.OVERLOADED, message, retry_after_s=turns.clears_s)) from None
        finally:
            exchange.waited_s += self._clock() - began_s

    def _ranked(self) -> Ranked:
        may_ask = self._may_ask
        tiers = [kept for tier in self._served.tiers if (kept := [each for each in tier if may_ask(each)])]
        return self._served.placement.rank(tiers, self._exchange.ask)

    def _may_ask(self, deployment: Deployment) -> bool:
        return self._may_come_back(deployment) and deployment.standing() is not Standing.AWAY

    def _may_come_back(self, deployment: Deployment) -> bool:
        if not self._failed and not self._full:
            return True
        failed = self._failed.get(deployment.name)
        return deployment.name not in self._full and (failed is None or failed.may_repeat)

    def _is_second_choice(self, deployment: Deployment) -> tuple[bool, bool]:
        return deployment.name in self._failed, deployment.standing() is Standing.UNREADY

    def _absence(self) -> UpstreamFailure:
        """Of the deployments to which nothing can be sent now, what the one says that is back first."""
        away = [
            each.absence()
            for each in self._served.deployments
            if each.standing() is Standing.AWAY and self._may_come_back(each)
        ]
        nowhere = UpstreamFailure(Kind.REFUSED, f"No deployment of '{self._served.name}' takes the request.")
        return min(away, key=lambda each: each.retry_after_s or 0.0, default=self._last_failure or nowhere)

    @property
    def _last_failure(self) -> UpstreamFailure | None:
        return next(reversed(self._failed.values()), None)

    def _failure(self, absent: UpstreamFailure) -> UpstreamFailure:
        """What the client is told: what went wrong, rather than that nobody is there to be asked again."""
        return self._spent(self._last_failure or absent)

    def _may_retry(self) -> bool:
        if self._attempts >= self._retry.attempts or self._clock() >= self._exchange.deadline_s:
            return False
        self._is_over_budget = not self._served.budget.take(self._clock())
        return not self._is_over_budget

    def _spent(self, failure: UpstreamFailure) -> UpstreamFailure:
        """The failure after which nothing is tried again here; the client's retries on top would multiply ours."""
        if self._attempts > 1 or self._is_over_budget:
            failure.error.is_final = True
        return failure

    def _eject_outliers(self, failure: UpstreamFailure) -> None:
        if failure.counts_against_health:
            now = self._clock()
            for deployment in outliers(self._served.deployments, now):
                deployment.breaker.eject(now)

    def _queue_left_s(self) -> float:
        """How long it may wait on for the SLO to be kept; raises `UpstreamFailure` where that is no time."""
        left_s = self._turn_left_s()
        if left_s <= 0:
            limit_s = self._served.config.timeouts.turn_s
            message = f"No deployment of '{self._served.name}' was predicted to keep its SLO within {limit_s:g} s."
            raise self._spent(UpstreamFailure(Kind.OVERLOADED, message, retry_after_s=self._served.turns.clears_s))
        total_s = self._exchange.deadline_s - self._clock()
        if total_s <= 0:
            raise self._spent(self._absence())
        return min(left_s, total_s)

    def _turn_left_s(self) -> float:
        """How long the request may go on to wait for its turn, of all the time that it may."""
        now = self._clock()
        self._queued_s = now if self._queued_s is None else self._queued_s
        return self._served.config.timeouts.turn_s - (now - self._queued_s)

    async def _wait(self, delay_s: float) -> None:
        """Raises `UpstreamFailure` if the time for the whole answer does not last so long."""
        if self._clock() + delay_s >= self._exchange.deadline_s:
            raise self._spent(self._absence())
        began_s = self._clock()
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._exchange.waited_s += self._clock() - began_s


def _silent(attempts: Sequence[Attempt]) -> dict[str, UpstreamFailure]:
    """The deployments that said nothing to the exchange before: no model that stands in asks them again."""
    failures = {each.deployment.name: each.failure for each in attempts if each.failure is not None}
    return {name: each for name, each in failures.items() if each.kind is Kind.TIMEOUT and not each.may_repeat}


def _nothing(attempt: Attempt) -> UpstreamFailure:
    return UpstreamFailure(Kind.CUT, f"'{attempt.deployment.name}' ended its answer before it began.")
