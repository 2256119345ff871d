"""The silence of a stream, broken before somebody on the way takes it for the end."""

import asyncio

from servery.gateway.exchange import Client


class Silence:
    """Has a comment sent whenever a stream was silent for `limit_s`; one timer, and no task unless it is silent.

    An answer that is not streamed stays silent, and has none of these.
    """

    def __init__(self, client: Client, limit_s: float) -> None:
        self._client = client
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self.last_s = self._loop.time()  # when something was sent, in the event loop's time
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Silence":
        self._wait(self._limit_s)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        left_s = self.last_s + self._limit_s - now
        if left_s <= 0:
            self._client.keep_alive()
            self.last_s = now
            left_s = self._limit_s
        self._wait(left_s)
