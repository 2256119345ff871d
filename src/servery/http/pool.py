"""The connections to one origin: bounded, the one used last first, requests waiting in line when all are busy."""

import asyncio
from collections import deque
from dataclasses import dataclass

from servery.http.answer_reader import LastAnswer
from servery.http.connection import Connection
from servery.http.deadline import Deadline
from servery.http.dialer import Dialer
from servery.http.errors import ClientClosed, HttpError, Limit, QueueFull, TimedOut, UnknownHost
from servery.http.limits import ClientLimits, Deadlines
from servery.http.proxy import Proxy
from servery.http.request_head import fixed_lines
from servery.http.timer_wheel import LoopTimers, Timer
from servery.http.url import Origin


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool holds now, and what it did since it was made."""

    origin: Origin
    open: int  # connections, those being made included
    idle: int
    waiting: int  # requests
    opened: int  # connections made so far
    reused: int  # requests that found one
    stale: int  # requests sent once more because the kept connection was closed just then


class Pool:
    """Hands connections out and takes them back.

    `_open` counts places: a place is taken before connecting and freed when the connection is gone. With requests
    waiting, a free connection goes to the first of them, and so does a free place.
    """

    def __init__(self, dialer: Dialer, timers: LoopTimers, limits: ClientLimits) -> None:
        self.origin = dialer.origin
        self.authority = dialer.origin.authority
        self.last_answer = LastAnswer()
        self.target_prefix, self.fixed_lines = _way(dialer.origin, dialer.proxy)
        self._dialer = dialer
        self._timers = timers
        self._limits = limits
        self._open = 0
        self._connections: set[Connection] = set()
        self._idle: deque[Connection] = deque()  # by the time when they became idle, the oldest first
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: Timer | None = None
        self._known_until = 0.0  # when the addresses are to be looked up again
        self._look_up: asyncio.Task[None] | None = None
        self._closed_why = ""
        self._opened = self._reused = 0
        self.stale = 0

    def stats(self) -> PoolStats:
        """The figures of now."""
        return PoolStats(
            self.origin, self._open, len(self._idle), len(self._waiting), self._opened, self._reused, self.stale
        )

    def take(self) -> Connection | None:
        """An idle connection, if there is one: the one that was used last."""
        while self._idle:
            connection = self._idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                self._reused += 1
                if self._timers.loop.time() >= self._known_until:
                    self._known_until = self._dialer.known_until
                    if self._timers.loop.time() >= self._known_until:
                        self._look_up_again()
                return connection
        return None

    async def acquire(self, deadlines: Deadlines, total_at: float, *, fresh: bool = False) -> Connection:
        """A connection: an idle one (unless `fresh`), a new one if there is room, or the first one that becomes free.

        Raises `QueueFull`, `TimedOut` (queue, connect, total), `Unreachable` and its kinds, `ClientClosed`.
        """
        self._check_open()
        connection = None if fresh else self.take()
        if connection is not None:
            return connection
        if self._open < self._limits.connections_per_origin:
            self._open += 1
        else:
            connection = await self._wait(deadlines, total_at)
            if connection is not None:
                self._reused += 1
                return connection
        return await self._connect(deadlines, total_at)

    def close(self, why: str) -> None:
        """Refuse new requests and those that wait, close what is idle; what is under way may end."""
        self._closed_why = why
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(self._closed())
        self._waiting.clear()
        for connection in list(self._connections):
            connection.is_draining = True
        for connection in list(self._idle):
            connection.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._look_up is not None:
            self._look_up.cancel()

    def abort(self) -> None:
        """Close every connection, whatever is under way."""
        for connection in list(self._connections):
            connection.close()

    # What connections tell.

    def _free(self, connection: Connection) -> None:
        """A connection can carry the next exchange."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(connection)
                return
        connection.idle_since = self._timers.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._timers.add(connection.idle_since + self._limits.idle_s, self._sweep)

    def _lost(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._free_place()

    def _free_place(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return
        self._open -= 1

    # Waiting, connecting, tidying.

    async def _wait(self, deadlines: Deadlines, total_at: float) -> Connection | None:
        """A connection that became free, or None for a place to make one."""
        limit = self._limits.waiting_per_origin
        if len(self._waiting) >= limit:
            raise QueueFull(
                f"All {self._open} connections to {self.origin} are busy and {limit} requests wait for one.",
                origin=str(self.origin),
            )
        waiting: asyncio.Future[Connection | None] = self._timers.loop.create_future()
        self._waiting.append(waiting)
        at, late = self._limit(Limit.QUEUE, deadlines.queue_s, deadlines, total_at)
        try:
            with Deadline(self._timers, at, late):
                return await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._pass_on(waiting.result())
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def _pass_on(self, given: Connection | None) -> None:
        """Who was given this was cancelled before it could use it."""
        if given is None:
            self._free_place()
        elif given.is_draining:
            given.close()
        elif given.is_open:
            self._free(given)

    async def _connect(self, deadlines: Deadlines, total_at: float) -> Connection:
        """A new connection, in a place that was taken before."""
        at, late = self._limit(Limit.CONNECT, deadlines.connect_s, deadlines, total_at)
        try:
            connection = await self._dialer.open(lambda: Connection(self._free, self._lost), at, late)
        except BaseException:
            self._free_place()
            raise
        self._opened += 1
        connection.is_draining = bool(self._closed_why)
        if connection.is_open:
            self._connections.add(connection)
        else:  # closed again before this coroutine ran
            self._free_place()
        return connection

    def _limit(self, limit: Limit, limit_s: float, deadlines: Deadlines, total_at: float) -> tuple[float, TimedOut]:
        at = self._timers.loop.time() + limit_s
        if total_at < at:
            at, limit, limit_s = total_at, Limit.TOTAL, deadlines.total_s
        what = {
            Limit.QUEUE: f"No connection to {self.origin} became free within",
            Limit.CONNECT: f"{self.origin} accepted no connection within",
        }.get(limit, f"{self.origin} could not be asked within")
        return at, TimedOut(
            f"{what} {limit_s:g} s ({limit} limit).", limit=limit, limit_s=limit_s, origin=str(self.origin)
        )

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        self._sweeper = None
        now = self._timers.loop.time()
        while self._idle and self._idle[0].idle_since + self._limits.idle_s <= now:
            self._idle[0].close()
        if self._idle:
            self._sweeper = self._timers.add(self._idle[0].idle_since + self._limits.idle_s, self._sweep)

    def _look_up_again(self) -> None:
        if self._look_up is None or self._look_up.done():
            self._look_up = self._timers.loop.create_task(self._keep_to_known_addresses())

    async def _keep_to_known_addresses(self) -> None:
        """Let connections run dry whose address is not the origin's any more."""
        try:
            addresses = await self._dialer.addresses()
        except UnknownHost:
            return  # a resolver that fails says nothing of the connections that work; new ones meet the error
        for connection in list(self._connections):
            if connection.address not in addresses:
                connection.is_draining = True
        for connection in [idle for idle in self._idle if idle.is_draining]:
            connection.close()

    def _check_open(self) -> None:
        if self._closed_why:
            raise self._closed()

    def _closed(self) -> HttpError:
        return ClientClosed(f"No request goes to {self.origin} any more: {self._closed_why}.", origin=str(self.origin))


def _way(origin: Origin, proxy: Proxy | None) -> tuple[str, bytes]:
    """What goes before each target, and the lines that all heads share. A proxy wants whole addresses (RFC 9112 3.2.2).

    Through a tunnel the proxy sees nothing of the requests, so nothing in them is for it.
    """
    if proxy is None or origin.is_tls:
        return "", fixed_lines()
    more = [(b"proxy-authorization", proxy.authorization)] if proxy.authorization is not None else []
    return str(origin), fixed_lines(more)
