"""One connection to a server: a stream of bytes that carries one exchange at a time and is kept in between."""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from servery.http.exchange import Exchange
from servery.http.timer_wheel import Timer


class Connection(asyncio.Protocol):
    """A connection of a pool. It calls `on_free` when it can carry the next exchange, `on_lost` once when it is gone."""

    def __init__(self, on_free: "Callable[[Connection], None]", on_lost: "Callable[[Connection], None]") -> None:
        self._on_free = on_free
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None  # None when the connection is gone
        self._socket: asyncio.Transport | None = None  # below TLS; else the same
        self._exchange: Exchange | None = None
        self._writable: asyncio.Future[None] | None = None
        self.is_write_paused = False  # the system takes no more bytes for now
        self.timer: Timer | None = None
        self.address = ""  # of the peer
        self.exchanges = 0  # begun so far
        self.idle_since = 0.0
        self.is_draining = False  # to be closed after the exchange that is under way

    @property
    def is_open(self) -> bool:
        """Whether bytes can be sent, as far as this side knows."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written the system has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def begin(self, exchange: Exchange) -> bool:
        """Carry this exchange from now on. Fails it, and answers False, if there is no connection any more."""
        self.exchanges += 1
        if self.transport is None or self.transport.is_closing():
            exchange.connection_lost(None)
            return False
        self._exchange = exchange
        return True

    def write(self, data: bytes) -> None:
        """Send bytes of the request. What follows the end of the exchange is dropped."""
        if self._exchange is not None and self.transport is not None:
            self._exchange.is_written = True
            self.transport.write(data)

    async def writable(self) -> None:
        """Wait until the system takes more bytes."""
        if self.is_write_paused and self.transport is not None:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def close(self) -> None:
        """Close at once."""
        transport, self.transport, self._socket = self.transport, None, None
        if transport is not None:
            transport.abort()
            self._lost(None)

    # What an exchange asks.

    # asyncio and uvloop lose what a paused TLS transport has not delivered when the connection ends. So the socket below
    # is paused instead: what TLS has in hand is delivered, and the end stays unread until reading goes on.

    def pause_reading(self) -> None:
        """Read nothing more from the socket until `resume_reading`."""
        if self._socket is not None:
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    def leave(self, is_reusable: bool) -> None:
        """The exchange is over; without `is_reusable` the connection is, too."""
        self._exchange = None
        transport = self.transport
        if is_reusable and not self.is_draining and transport is not None and not transport.is_closing():
            self._on_free(self)
        else:
            self.close()

    def ring(self) -> None:
        """The time of some exchange's deadline has come: that of the one under way may be later."""
        self.timer = None
        if self._exchange is not None:
            self._exchange.judge()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = self._socket = cast("asyncio.Transport", transport)  # what a stream connection always gives
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""

    def secured(self, tls: asyncio.Transport, socket: asyncio.Transport) -> None:
        """The same, over TLS."""
        self.connection_made(tls)
        self._socket = socket

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; when nothing was asked, they can only be a mistake or an attack."""
        if self._exchange is not None:
            self._exchange.data_received(data)
        else:
            self.close()

    def eof_received(self) -> None:
        """The server sends no more. The event loop then closes the connection."""
        if self._exchange is not None and self.transport is not None and _is_in_good_order(self.transport):
            self._exchange.end_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.transport is not None:
            self.transport = self._socket = None
            self._lost(exc)

    def pause_writing(self) -> None:
        """The system takes no more for now."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """The system has taken most of it."""
        self.is_write_paused = False
        self._wake_writer()
        if self._exchange is not None:
            self._exchange.write_resumed()

    def _lost(self, cause: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._wake_writer()
        self._on_lost(self)
        if exchange is not None:
            exchange.connection_lost(cause)

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None


def _is_in_good_order(transport: asyncio.Transport) -> bool:
    """Whether the end is the server's own: with TLS anybody on the way can end the connection, but not sign that.

    The event loop reports both alike. Reading once more tells them apart: the end of TLS stays readable as such.
    """
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:  # it waits for more
        return False
