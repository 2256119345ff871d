"""Ports for programs that are told where to listen, and one where nobody does."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

# Below what systems give to outgoing connections (Linux: 32768 and up): none of those that other tests make meanwhile
# takes the port before it is listened at. Each process begins elsewhere.
_FIRST, _COUNT = 20_000, 12_000
_NUMBERS = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and stays so."""
    while True:
        port = _FIRST + next(_NUMBERS) % _COUNT
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 where, inside, connections are refused: it is taken, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        yield port
