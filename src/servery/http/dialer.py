"""Opens connections to one origin: address, socket, TLS, with one deadline over all of it."""

import ssl
from collections.abc import Callable

from servery.http import dial
from servery.http.connection import Connection
from servery.http.deadline import Deadline
from servery.http.errors import HttpError, TimedOut, Unreachable, Untrusted
from servery.http.limits import ClientLimits
from servery.http.resolver import Resolver
from servery.http.timer_wheel import LoopTimers
from servery.http.tls import client_context
from servery.http.url import Origin


class Dialer:
    """Opens connections to `origin`."""

    def __init__(self, origin: Origin, resolver: Resolver, timers: LoopTimers, limits: ClientLimits) -> None:
        self.origin = origin
        self._resolver = resolver
        self._timers = timers
        self._limits = limits
        self._tls: ssl.SSLContext | None = None

    async def open(self, make: Callable[[], Connection], at: float, late: TimedOut) -> Connection:
        """A connection, made by `make`, before `at`. Raises `Unreachable` and its kinds, or `late`."""
        try:
            with Deadline(self._timers, at, late):
                return await self._open(make)
        except HttpError as error:
            error.origin = str(self.origin)
            raise

    def needs_look_up(self) -> bool:
        """Whether what is known of the origin's addresses is too old."""
        return not self._resolver.is_fresh(self.origin.host, self.origin.port)

    async def addresses(self) -> frozenset[str]:
        """The IP addresses that connections may lead to now. Raises `UnknownHost`."""
        found = await self._resolver.addresses(self.origin.host, self.origin.port)
        return frozenset(address.host for address in found)

    async def _open(self, make: Callable[[], Connection]) -> Connection:
        origin, loop = self.origin, self._timers.loop
        addresses = await self._resolver.addresses(origin.host, origin.port)
        sock = await dial.connect(addresses, self._limits.next_address_s, str(origin))
        if origin.is_tls and self._tls is None:
            self._tls = client_context(origin.tls)
        try:
            _, connection = await loop.create_connection(
                make, sock=sock, ssl=self._tls, server_hostname=origin.host if origin.is_tls else None
            )
        except ssl.SSLCertVerificationError as error:
            raise Untrusted(f"The certificate of {origin} is not trusted ({error.verify_message}).") from error
        except ssl.SSLError as error:
            raise Untrusted(f"{origin} refused TLS ({error.reason or error}); check scheme and port.") from error
        except OSError as error:
            raise Unreachable(f"{origin} broke off while connecting ({error.strerror or error}).") from error
        return connection
