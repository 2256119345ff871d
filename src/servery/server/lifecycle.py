"""Which requests are under way, and how the server stops: no new work, a limit for the old, then an end for all."""

import asyncio

from servery.server.interrupt import Interrupt, Reason
from servery.wire.errors import ApiError, unavailable

RETRY_AFTER_S = 1.0
# How long answers that were told to end may take to say so to their clients.
_LAST_WORDS_S = 5.0


class Lifecycle:
    """Requests that do work; everything happens on one event loop."""

    def __init__(self) -> None:
        self._under_way: set[Interrupt] = set()
        self._idle: asyncio.Event | None = None  # of whoever waits for the last one's end
        self.is_draining = False

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    def begin(self, interrupt: Interrupt) -> None:
        """There is one more under way; raises `ApiError` (503) when the server is stopping."""
        if self.is_draining:
            raise draining()
        self._under_way.add(interrupt)

    def end(self, interrupt: Interrupt) -> None:
        """One is over."""
        self._under_way.discard(interrupt)
        if self._idle is not None and not self._under_way:
            self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new work, wait for what is under way, end what is left; whether all could finish by itself."""
        self.is_draining = True
        if await self._wait_idle(timeout_s):
            return True
        self.end_all()
        await self._wait_idle(_LAST_WORDS_S)
        return False

    def end_all(self) -> None:
        """End everything under way with an error that the clients can read."""
        self.is_draining = True
        for interrupt in list(self._under_way):
            interrupt.fire(Reason.SHUTDOWN)

    async def _wait_idle(self, timeout_s: float) -> bool:
        if not self._under_way:
            return True
        self._idle = self._idle or asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def draining() -> ApiError:
    """503 for everything that comes too late."""
    error = unavailable("The server is shutting down and takes no new requests.", RETRY_AFTER_S)
    error.extra_headers = (("connection", "close"),)
    return error
