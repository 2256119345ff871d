"""An answer whose head is here and whose body comes."""

import warnings
from collections.abc import Callable
from typing import Self

from servery.http.errors import BodyTooLarge
from servery.http.exchange import Exchange
from servery.http.headers import Headers
from servery.http.url import Origin


class Response:
    """Read it to its end, or close it: `async with` does. Iterating gives the body as the socket's reads brought it.

    A failure is raised to the reader after everything that came before it. One reader at a time.
    """

    __slots__ = ("_exchange", "_origin", "headers", "ready", "status", "version")

    def __init__(self, origin: Origin, exchange: Exchange) -> None:
        head = exchange.reader.head
        assert head is not None
        self.status = head.status
        self.version = head.version
        self.headers: Headers = head.headers
        self._origin = origin
        self._exchange = exchange
        # The next bytes of the body if they have come, empty at its end; None if they have to be waited for.
        self.ready = exchange.take

    @property
    def is_complete(self) -> bool:
        """Whether all of the body has arrived (some of it may not have been read yet)."""
        return self._exchange.reader.is_complete

    async def piece(self) -> bytes:
        """The next bytes of the body; empty at its end.

        Raises `Disconnected`, `TimedOut`, `Malformed`. Cancelling closes the connection.
        """
        exchange = self._exchange
        while (piece := exchange.take()) is None:
            try:
                await exchange.changed()
            except BaseException:
                exchange.abandon()
                raise
        return piece

    async def pour(self, sink: Callable[[bytes], bool]) -> bool:
        """Have `sink` called with each next piece in the very call that brings it, until it says that this was enough.

        Whether the body has come to its end. Raises what `piece` and `sink` raise; cancelling closes the connection.
        """
        exchange = self._exchange
        while True:
            piece = exchange.take()
            if piece is None:
                try:
                    is_more = await exchange.poured(sink)
                except BaseException:
                    exchange.abandon()
                    raise
            elif piece:
                is_more = sink(piece)
            else:
                return True
            if not is_more:
                return exchange.is_read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.piece()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `BodyTooLarge`, and closes the connection, if it is longer than `limit_bytes`."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.piece():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                self.close()
                raise BodyTooLarge(
                    f"The answer of {self._origin} is longer than {limit_bytes} bytes.",
                    origin=str(self._origin),
                    nothing_received=False,
                    request_written=True,
                )
        return b"".join(pieces)

    def close(self) -> None:
        """Leave the answer: closes the connection unless all of it has arrived, which tells the server to stop."""
        self._exchange.abandon()

    async def aclose(self) -> None:
        """The same as `close`."""
        self.close()

    def __del__(self) -> None:
        if not self._exchange.is_over:
            warnings.warn(f"An answer of {self._origin} was neither read nor closed.", ResourceWarning, stacklevel=2)
            self._exchange.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
