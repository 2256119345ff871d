"""Limits counted in a Redis, for all gateways that share it: one script and one round trip for each request.

Commands go over one connection in the order in which they were given, all that wait together in one write. Scripts run
one after the other in Redis, so a reservation is one step for everybody. Time is Redis's own.
"""

import asyncio
import contextlib
import importlib.resources
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from servery.gateway.admit.limits.meter import Cost, Lease, Measure, Meter, Plan, Verdict

# The braces keep all keys in one slot of a cluster.
_PREFIX = "servery:{limits}"
_MOST_AT_ONCE = 256
# What is not settled because Redis is away is told when it is back; beyond this, leases expire and keep what they reserved.
_MOST_WAITING = 50_000
_KINDS = {Measure.CONCURRENCY: "c", Measure.DAY: "d", Measure.MONTH: "m"}
_MOST_PLANS = 100_000
# A deadline is so many waits, one after the other: each is a turn of the loop at least, in which an answer is read.
_DEADLINE_PARTS = 10


class StoreDown(Exception):
    """The store did not answer, or not in time; the message says how."""


@dataclass(slots=True)
class _Command:
    """One call of a script; nobody waits for one without an `answer`."""

    script: str
    keys: Sequence[str]
    arguments: Sequence[Any]
    answer: "asyncio.Future[list[int]] | None" = None


@dataclass(frozen=True, slots=True)
class _Bound:
    """A plan as the scripts take it: its keys, and its meters in five words each. One text is quicker to send than many.

    Before its meters come `holders`, one for each scope that has a budget: what leases under way hold of it.
    """

    keys: tuple[str, ...]
    meters: str
    holders: int


class SharedLimits:
    """A `LimitStore` in the Redis at `url`, which has `deadline_s` to answer. Raises `StoreDown` when it does not.

    Its loop is that of its first request. `now_ms` replaces Redis's clock, for tests.
    """

    def __init__(self, url: str, deadline_s: float, now_ms: Callable[[], int] | None = None) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), max_connections=2)
        self._deadline_s = deadline_s
        self._now_ms = now_ms
        folder = importlib.resources.files("servery.gateway.admit.limits")
        self._texts = {name: (folder / f"{name}.lua").read_text() for name in ("reserve", "settle")}
        self._digests: dict[str, str] = {}
        self._bound: dict[Plan, _Bound] = {}
        self._waiting: deque[_Command] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()  # nothing is on its way
        self._idle.set()
        self._worker: asyncio.Task[None] | None = None
        self._is_closed = False
        self._ids = 0
        self._name = secrets.token_hex(6)

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        """Reserve the cost on all meters, or on none."""
        bound = self._bind(plan)
        self._ids += 1
        lease_id = f"{self._name}-{self._ids}"
        held = [cost.microusd] * bound.holders
        amounts = " ".join([str(each) for each in (*held, *[meter.amount(cost) for meter in plan.meters])])
        arguments = (self._time(), lease_id, lease_ms, bound.meters, amounts)
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._put(_Command("reserve", (_lease_key(lease_id), *bound.keys), arguments, answer))
        try:
            fits, now_ms, day, month, *found = await answer
        except (StoreDown, asyncio.CancelledError):
            # It may have been reserved, or may still be: nobody is left to use it.
            self.settle(Lease(self, plan, cost, lease_id, 0, (0, 0)), Cost())
            raise
        lease = Lease(self, plan, cost, lease_id, now_ms + lease_ms, (day, month)) if fits else None
        size = len(plan.meters)
        return Verdict(lease, found[:size], now_ms / 1000, reserved=found[size:])

    def settle(self, lease: Lease, used: Cost) -> None:
        """Have it counted that `used` was used; what cannot be told now is told later."""
        bound, lease_id = self._bind(lease.plan), str(lease.id)
        more = [meter.amount(used) - meter.amount(lease.cost) for meter in lease.plan.meters]
        changes = " ".join([str(each) for each in (*[lease.cost.microusd] * bound.holders, *more)])
        arguments = (self._time(), lease_id, bound.meters, changes)
        self._put(_Command("settle", (_lease_key(lease_id), *bound.keys), arguments))

    async def close(self) -> None:
        """Tell what is still to be told, as far as that is quick, and let go of the connection."""
        if self._worker is not None:
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._deadline_s):
                    await self._idle.wait()
            self._is_closed = True
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await self.client.aclose()

    # The one who sends.

    def _put(self, command: _Command) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="limits")
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(command)
            self._idle.clear()
        elif command.answer is not None:
            command.answer.set_exception(StoreDown(f"{_MOST_WAITING} commands wait for it"))
        self._wake.set()

    async def _work(self) -> None:
        while not self._is_closed:  # a connection that is cut while it is cancelled may raise another error than that
            await self._wake.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST_AT_ONCE))]
            if not self._waiting:
                self._wake.clear()
            if batch:
                await self._try(batch)
            if not self._waiting:
                self._idle.set()

    async def _try(self, batch: list[_Command]) -> None:
        from redis.exceptions import RedisError

        try:
            async with _listening_for(self._deadline_s):
                results = await self._send(batch)
        except TimeoutError:
            self._fail(batch, StoreDown(f"no answer within {1000 * self._deadline_s:g} ms"))
        except (RedisError, OSError) as error:
            self._fail(batch, StoreDown(f"{type(error).__name__}: {error}"))
        else:
            for command, result in zip(batch, results, strict=True):
                _give(command, result)

    async def _send(self, batch: list[_Command]) -> list[Any]:
        from redis.exceptions import NoScriptError

        for name, text in self._texts.items():
            if name not in self._digests:
                self._digests[name] = await self.client.script_load(text)
        results = await self._execute(batch)
        if any(isinstance(each, NoScriptError) for each in results):  # Redis was started again
            self._digests.clear()
            again = [command for command, each in zip(batch, results, strict=True) if isinstance(each, NoScriptError)]
            second = iter(await self._send(again))
            results = [next(second) if isinstance(each, NoScriptError) else each for each in results]
        return results

    async def _execute(self, batch: list[_Command]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for command in batch:
            digest = self._digests[command.script]
            pipeline.execute_command("EVALSHA", digest, len(command.keys), *command.keys, *command.arguments)
        results: list[Any] = await pipeline.execute(raise_on_error=False)
        return results

    def _fail(self, batch: list[_Command], failure: StoreDown) -> None:
        """Whoever waits is told, those behind too; what is to be settled waits until somebody asks again."""
        everything = [*batch, *self._waiting]
        self._waiting.clear()
        self._wake.clear()
        self._waiting.extend([command for command in everything if command.answer is None][:_MOST_WAITING])
        for command in everything:
            _give(command, failure)

    # Plans.

    def _bind(self, plan: Plan) -> _Bound:
        found = self._bound.get(plan)
        if found is None:
            if len(self._bound) >= _MOST_PLANS:
                self._bound.clear()
            found = self._bound[plan] = _bound(plan.meters)
        return found

    def _time(self) -> str:
        return "" if self._now_ms is None else str(self._now_ms())


def _bound(meters: Sequence[Meter]) -> _Bound:
    names = [_key(meter) for meter in meters]
    held = {name: _named("held", meter) for meter, name in zip(meters, names, strict=True) if meter.measure.is_budget}
    places = {name: at for at, name in enumerate(dict.fromkeys([*names, *held.values()]), 2)}
    words = [f"h {places[holder]} held {places[name]} 0" for name, holder in held.items()]
    words += [
        f"{_KINDS.get(meter.measure, 'b')} {places[name]} {meter.measure.value} {meter.capacity} {meter.rate}"
        for meter, name in zip(meters, names, strict=True)
    ]
    return _Bound(tuple(places), " ".join(words), len(held))


def _key(meter: Meter) -> str:
    return _named("places" if meter.measure is Measure.CONCURRENCY else "used", meter)


def _named(kind: str, meter: Meter) -> str:
    return f"{_PREFIX}:{kind}:{meter.scope}:{meter.name}"


def _lease_key(lease_id: str) -> str:
    return f"{_PREFIX}:lease:{lease_id}"


@contextlib.asynccontextmanager
async def _listening_for(span_s: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` when that takes longer than this loop listened for `span_s`.

    While the loop is busy with hundreds of requests it reads no answer, though it may lie there: that is not Redis's time.
    """
    loop = asyncio.get_running_loop()
    limit, part_s = asyncio.timeout(None), span_s / _DEADLINE_PARTS
    turns: list[asyncio.TimerHandle] = []

    def wait(parts: int) -> None:
        if parts:
            turns[:] = [loop.call_later(part_s, wait, parts - 1)]
        else:
            limit.reschedule(loop.time())

    async with limit:
        wait(_DEADLINE_PARTS)
        try:
            yield
        finally:
            turns[0].cancel()


def _give(command: _Command, result: Any) -> None:
    if command.answer is None or command.answer.done():
        return
    if isinstance(result, Exception):
        command.answer.set_exception(result if isinstance(result, StoreDown) else StoreDown(str(result)))
    else:
        command.answer.set_result(result)
