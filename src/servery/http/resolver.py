"""Names to addresses: looked up in a thread, believed for a while, one look-up at a time per name."""

import asyncio
import ipaddress
import math
import socket
from typing import NamedTuple

from servery.http.errors import UnknownHost


class Address(NamedTuple):
    """What `socket.connect` takes, and for which family."""

    family: int
    sockaddr: tuple[object, ...]

    @property
    def host(self) -> str:
        """The IP address."""
        return str(self.sockaddr[0])


class _Known(NamedTuple):
    addresses: tuple[Address, ...]
    until: float


class Resolver:
    """A cache over the event loop's `getaddrinfo`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, believed_s: float) -> None:
        self._loop = loop
        self._believed_s = believed_s
        self._known: dict[tuple[str, int], _Known] = {}
        self._running: dict[tuple[str, int], asyncio.Task[tuple[Address, ...]]] = {}

    def known_until(self, host: str, port: int) -> float:
        """Until when the answer that is known may be believed, by the loop's clock; 0 where none is."""
        known = self._known.get((host, port))
        return 0.0 if known is None else known.until

    async def addresses(self, host: str, port: int) -> tuple[Address, ...]:
        """The addresses of a host, families taking turns so that a broken one costs one attempt (RFC 8305).

        Raises `UnknownHost`.
        """
        if self._loop.time() < self.known_until(host, port):
            return self._known[host, port].addresses
        literal = _literal(host, port)
        if literal is not None:
            self._known[host, port] = _Known((literal,), math.inf)
            return (literal,)
        running = self._running.get((host, port))
        if running is None:
            running = self._running[host, port] = self._loop.create_task(self._look_up(host, port))
            running.add_done_callback(lambda _: self._running.pop((host, port), None))
        return await asyncio.shield(running)  # others may wait for it as well

    def close(self) -> None:
        """Stop what is under way."""
        for task in self._running.values():
            task.cancel()

    async def _look_up(self, host: str, port: int) -> tuple[Address, ...]:
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnknownHost(f"No address is known for {host!r} ({error.strerror or error}).") from error
        except (
            UnicodeError
        ) as error:  # a name with an empty label or one of more than 63 bytes cannot even be asked for
            raise UnknownHost(f"{host!r} cannot be the name of a host ({error}).") from error
        addresses = _taking_turns([Address(family, sockaddr) for family, _, _, _, sockaddr in found])
        self._known[host, port] = _Known(addresses, self._loop.time() + self._believed_s)
        return addresses


def _literal(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 6:
        return Address(socket.AF_INET6, (host, port, 0, 0))
    return Address(socket.AF_INET, (host, port))


def _taking_turns(addresses: list[Address]) -> tuple[Address, ...]:
    """The same addresses, families alternating, beginning with the first one's."""
    unique = list(dict.fromkeys(addresses))
    first = [address for address in unique if address.family == unique[0].family]
    others = [address for address in unique if address.family != unique[0].family]
    mixed = [address for pair in zip(first, others, strict=False) for address in pair]
    shorter = min(len(first), len(others))
    return (*mixed, *first[shorter:], *others[shorter:])
