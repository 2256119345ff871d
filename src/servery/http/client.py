"""The client: requests go out on kept connections, answers come back head first."""

import asyncio
import os
from collections.abc import AsyncIterable, Sequence

from servery.http.answer_reader import AnswerReader
from servery.http.dialer import Dialer
from servery.http.errors import Disconnected
from servery.http.exchange import Exchange
from servery.http.limits import ClientLimits, Deadlines
from servery.http.pool import Pool, PoolStats
from servery.http.proxy import Proxies
from servery.http.request_body import send
from servery.http.request_head import Header, encode_head
from servery.http.resolver import Resolver
from servery.http.response import Response
from servery.http.timer_wheel import LoopTimers
from servery.http.url import Origin

_IDEMPOTENT = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])  # RFC 9110 section 9.2.2
_DEFAULT_LIMITS = ClientLimits()
_DEFAULT = Deadlines()


class HttpClient:
    """An HTTP/1.1 client with a bounded pool per origin. Make it where the event loop runs; close it with `aclose`.

    It follows no redirects, keeps no cookies, decodes nothing, and repeats nothing but what a kept connection lost.
    """

    def __init__(
        self,
        limits: ClientLimits = _DEFAULT_LIMITS,
        *,
        proxies: Proxies | None = None,
        timers: LoopTimers | None = None,
    ) -> None:
        """`proxies` are the environment's if not given; `timers` may be shared with others on the same loop."""
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._timers = LoopTimers(self._loop) if timers is None else timers
        self._is_wheel_shared = timers is not None
        self._resolver = Resolver(self._loop, limits.address_s)
        self._pools: dict[Origin, Pool] = {}
        self._proxies = Proxies.from_environment(os.environ) if proxies is None else proxies

    async def request(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: Sequence[Header] = (),
        body: bytes | AsyncIterable[bytes] = b"",
        *,
        deadlines: Deadlines = _DEFAULT,
        is_repeatable: bool | None = None,
    ) -> Response:
        """Send a request and wait for the head of its answer.

        `target` is the path with its query. `body` is sent with its length if it is bytes, else in chunks as they are
        made. When a kept connection turns out to be closed before any byte of the answer, no later than at once after the
        request was sent, it goes out once more on a new one, if the method is idempotent or `is_repeatable` says so, and
        the body is bytes.

        Cancelling closes the connection, in every phase. Raises the kinds of `HttpError`; what the body's iterator
        raises goes through.
        """
        pool = self._pools.get(origin) or self._add_pool(origin)
        length = len(body) if isinstance(body, bytes) else None
        head = encode_head(method, pool.target_prefix, target, pool.authority, pool.fixed_lines, headers, length)
        total_at = self._loop.time() + deadlines.total_s
        connection = pool.take() or await pool.acquire(deadlines, total_at)
        while True:
            reader = AnswerReader(self._limits.answer, is_bodyless=method == "HEAD", last=pool.last_answer)
            is_first_use = connection.exchanges == 0
            exchange = Exchange(
                connection, origin, reader, self._timers, self._limits, deadlines, total_at, is_first_use=is_first_use
            )
            send(connection, exchange, head, body)
            try:
                while reader.head is None:
                    await exchange.changed()
                return Response(origin, exchange)
            except Disconnected as error:
                may_repeat = is_repeatable if is_repeatable is not None else method in _IDEMPOTENT
                # On a connection of its own nothing was stale.
                if length is None or not error.is_stale or not (may_repeat or not error.request_written):
                    raise
            except BaseException:
                exchange.abandon()
                raise
            pool.stale += 1
            connection = await pool.acquire(deadlines, total_at, fresh=True)

    def stats(self) -> list[PoolStats]:
        """What each pool holds."""
        return [pool.stats() for pool in self._pools.values()]

    def drop(self, origin: Origin) -> None:
        """Have nothing to do with an origin any more: idle connections close, busy ones after their exchange."""
        pool = self._pools.pop(origin, None)
        if pool is not None:
            pool.close("its connections were given up")

    async def aclose(self) -> None:
        """Close everything, whatever is under way."""
        for pool in self._pools.values():
            pool.close("the client is closed")
            pool.abort()
        self._resolver.close()
        if not self._is_wheel_shared:
            self._timers.close()
        await asyncio.sleep(0)  # the event loop closes sockets in its next turn

    def _add_pool(self, origin: Origin) -> Pool:
        proxy = self._proxies.for_origin(origin)
        dialer = Dialer(origin, proxy, self._resolver, self._timers, self._limits)
        pool = self._pools[origin] = Pool(dialer, self._timers, self._limits)
        return pool
