"""The server's socket and all its connections, from the first to the last."""

import asyncio
import contextlib
import socket

from servery.server.protocol import Answer, HttpProtocol

# How long answers that are under way when listening ends may take; by then every one was told to end.
_LAST_WORDS_S = 5.0


class Listener:
    """Has `answer` answer what comes by a socket, until `end` is called."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._open: set[HttpProtocol] = set()
        self._is_over = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def opened(self, connection: HttpProtocol) -> None:
        """There is one more."""
        self._open.add(connection)
        self._is_empty.clear()

    def closed(self, connection: HttpProtocol) -> None:
        """It is gone."""
        self._open.discard(connection)
        if not self._open:
            self._is_empty.set()

    def end(self) -> None:
        """Stop listening."""
        self._is_over.set()

    async def serve(self, sock: socket.socket) -> None:
        """Listen until `end`, then let what is under way come to its end, for a while."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpProtocol(self._answer, loop, self), sock=sock, backlog=2048)
        try:
            await self._is_over.wait()
        finally:
            server.close()
            await self._close_all()

    async def _close_all(self) -> None:
        for connection in list(self._open):
            connection.shut_down()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._is_empty.wait()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # the event loop closes sockets in its next turn
