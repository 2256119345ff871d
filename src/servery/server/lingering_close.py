"""A transport that lets the client finish before it closes.

To close a connection while its client is still sending resets it, and the client may never read the answer that came
before: one that sends a large body and is refused by its head alone would see only a lost connection (RFC 9112, 9.6).
"""

import asyncio
from collections.abc import Callable
from typing import Any

# How long a client may go on sending after its answer. It is read and thrown away.
LINGER_S = 2.0


class LingeringClose:
    """Stands before a transport: says that nothing more will be sent, and closes when the client does or time is up.

    Where `is_receiving` says that the client has sent all, closing is what it was.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, is_receiving: Callable[[], bool]) -> None:
        self._transport = transport
        self._loop = loop
        self._is_receiving = is_receiving
        self.is_lingering = False  # what comes is to be thrown away
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether anything can still be sent; not while lingering."""
        return self.is_lingering or bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send, unless the end has been announced."""
        if not self.is_lingering:
            self._transport.write(data)

    def close(self) -> None:
        """Close, now or when the client has; a second time changes nothing."""
        if self.is_closing():
            return
        if not self._is_receiving():
            self._transport.close()
            return
        self.is_lingering = True
        self._timer = self._loop.call_later(LINGER_S, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def lost(self) -> None:
        """The connection is over."""
        if self._timer is not None:
            self._timer.cancel()
