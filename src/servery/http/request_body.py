"""Sending a request: head and body together where the body is there, in chunks where it is made on the way."""

import asyncio
from collections.abc import AsyncIterable
from contextlib import AsyncExitStack

from servery.http.connection import Connection
from servery.http.errors import BadRequest
from servery.http.exchange import Exchange

JOINED_BYTES = 64 << 10  # a body up to this goes out in one write with its head; a larger one is not copied


def send(connection: Connection, exchange: Exchange, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
    """Begin `exchange` on `connection`."""
    if not connection.begin(exchange):
        return
    if not isinstance(body, bytes):
        connection.write(head)
        task = asyncio.get_running_loop().create_task(_send_chunks(connection, exchange, body))
        exchange.sending(task)
        task.add_done_callback(lambda done: _tell(exchange, done))
        return
    if len(body) <= JOINED_BYTES:
        connection.write(head + body)
    else:
        connection.write(head)
        connection.write(body)
    if connection.is_write_paused:
        exchange.sending()
    else:
        exchange.sent()


async def _send_chunks(connection: Connection, exchange: Exchange, body: AsyncIterable[bytes]) -> None:
    """Send a body in chunks as it is made, no faster than the server takes them."""
    async with AsyncExitStack() as stack:
        if hasattr(body, "aclose"):
            stack.push_async_callback(body.aclose)
        async for piece in body:
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise BadRequest(f"A piece of the request's body is {type(piece).__name__}; it must be bytes.")
            if piece:  # a chunk of no bytes would end the body
                connection.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await connection.writable()
    connection.write(b"0\r\n\r\n")
    exchange.sent()


def _tell(exchange: Exchange, done: asyncio.Task[None]) -> None:
    """What the body's iterator raises breaks the exchange."""
    error = None if done.cancelled() else done.exception()
    if isinstance(error, Exception):
        exchange.fail(error)
