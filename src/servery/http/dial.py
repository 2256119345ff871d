"""From addresses to a connected socket: one after the other, the next one early when one is silent (RFC 8305)."""

import asyncio
import os
import socket
from collections.abc import Sequence

from servery.http.errors import Unreachable
from servery.http.resolver import Address


async def connect(addresses: Sequence[Address], next_after_s: float, name: str) -> socket.socket:
    """A connected, non-blocking TCP socket to the first address that accepts.

    The next address is tried when one refuses, or beside it when it was silent for `next_after_s`; the losers are
    closed. Raises `Unreachable` with every address's reason.
    """
    if len(addresses) == 1:
        try:
            return await _attempt(addresses[0])
        except OSError as error:
            raise _unreachable(name, [_reason(addresses[0], error)]) from error
    return await _race(list(addresses), next_after_s, name)


async def _race(addresses: list[Address], next_after_s: float, name: str) -> socket.socket:
    reasons: list[str] = []
    running: dict[asyncio.Task[socket.socket], Address] = {}
    try:
        while addresses or running:
            if addresses:
                address = addresses.pop(0)
                running[asyncio.create_task(_attempt(address))] = address
            patience_s = next_after_s if addresses else None
            done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:  # those behind a winner stay in `running`
                address = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                reasons.append(_reason(address, error))
        raise _unreachable(name, reasons)
    finally:
        for task in running:
            task.add_done_callback(_close_late_winner)
            task.cancel()


def _close_late_winner(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _attempt(address: Address) -> socket.socket:
    attempt = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        attempt.setblocking(False)
        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(attempt, address.sockaddr)
    except BaseException:
        attempt.close()
        raise
    return attempt


def _reason(address: Address, error: OSError) -> str:
    return f"{address.host}: {os.strerror(error.errno) if error.errno else error}"


def _unreachable(name: str, reasons: Sequence[str]) -> Unreachable:
    return Unreachable(f"Nothing answers at {name} ({'; '.join(reasons)}).", origin=name)
