"""An upstream's answer to the client, piece by piece as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from servery.server.answer_record import AnswerRecord
from servery.server.interrupt import Reason
from servery.server.reply import Reply
from servery.server.service import Exchange
from servery.upstream.upstream import Chunk


async def relay_stream(
    chunks: AsyncGenerator[Chunk, None], reply: Reply, record: AnswerRecord, keep_alive_s: float
) -> None:
    """Send every piece when it comes, a comment when none has come for `keep_alive_s`, and [DONE] at the end.

    Raises what the upstream raises; an error before the first piece can still become a status.
    """
    async with contextlib.aclosing(chunks):
        with _Silence(reply, keep_alive_s) as silence:
            async for chunk in chunks:
                record.add(chunk)
                if chunk.data:
                    silence.broken()
                    await reply.stream(chunk.data)
    await reply.end_stream()


async def relay_whole(chunks: AsyncGenerator[Chunk, None], reply: Reply, record: AnswerRecord) -> None:
    """Send the answer when it is complete."""
    body = bytearray()
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            record.add(chunk)
            body += chunk.data
    await reply.whole(bytes(body))


@contextlib.asynccontextmanager
async def watched(exchange: Exchange) -> AsyncGenerator[None, None]:
    """Inside, a client that closes its connection interrupts the exchange; the body must have been read."""
    watch = asyncio.create_task(_watch(exchange))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(exchange: Exchange) -> None:
    while (await exchange.request.receive())["type"] != "http.disconnect":
        pass
    if not exchange.reply.is_complete:  # after a complete answer, "disconnect" only means that it is over
        exchange.interrupt.fire(Reason.CLIENT)


class _Silence:
    """Has a comment sent whenever a stream was silent for `limit_s`; one timer, and no task unless it is silent."""

    def __init__(self, reply: Reply, limit_s: float) -> None:
        self._reply = reply
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "_Silence":
        self._wait(self._limit_s)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def broken(self) -> None:
        """Something is being sent now."""
        self._last_s = self._loop.time()

    def _wait(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        left_s = self._last_s + self._limit_s - self._loop.time()
        if left_s <= 0:
            self._reply.keep_alive()
            self.broken()
            left_s = self._limit_s
        self._wait(left_s)
