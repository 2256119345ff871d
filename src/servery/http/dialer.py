"""Opens connections to one origin: proxy, address, socket, TLS, with one deadline over all of it."""

import asyncio
import ssl
from collections.abc import Callable

from servery.http import dial
from servery.http.connection import Connection
from servery.http.deadline import Deadline
from servery.http.errors import HttpError, TimedOut, Unreachable, Untrusted
from servery.http.limits import ClientLimits
from servery.http.proxy import Proxy
from servery.http.resolver import Resolver
from servery.http.timer_wheel import LoopTimers
from servery.http.tls import client_context
from servery.http.tunnel import open_tunnel
from servery.http.url import Origin


class Dialer:
    """Opens connections to `origin`, through `proxy` where there is one."""

    def __init__(
        self, origin: Origin, proxy: Proxy | None, resolver: Resolver, timers: LoopTimers, limits: ClientLimits
    ) -> None:
        self.origin = origin
        self.proxy = proxy
        self._host, self._port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        self._resolver = resolver
        self._timers = timers
        self._limits = limits
        self._tls: ssl.SSLContext | None = None

    async def open(self, make: Callable[[], Connection], at: float, late: TimedOut) -> Connection:
        """A connection, made by `make`, before `at`.

        Raises `Unreachable` and its kinds, `BadUrl` for TLS files that cannot be used, or `late`.
        """
        try:
            with Deadline(self._timers, at, late):
                return await self._open(make)
        except HttpError as error:
            error.origin = str(self.origin)
            raise

    @property
    def known_until(self) -> float:
        """When what is known of the addresses is too old, by the loop's clock."""
        return self._resolver.known_until(self._host, self._port)

    async def addresses(self) -> frozenset[str]:
        """The IP addresses that connections may lead to now. Raises `UnknownHost`."""
        return frozenset(address.host for address in await self._resolver.addresses(self._host, self._port))

    async def _open(self, make: Callable[[], Connection]) -> Connection:
        origin, proxy, loop = self.origin, self.proxy, self._timers.loop
        if origin.is_tls and self._tls is None:
            self._tls = await asyncio.to_thread(client_context, origin.tls)  # it reads some hundred certificates
        addresses = await self._resolver.addresses(self._host, self._port)
        name = str(origin) if proxy is None else f"the proxy {proxy} on the way to {origin}"
        sock = await dial.connect(addresses, self._limits.next_address_s, name)
        try:
            if self._tls is None:
                _, connection = await loop.create_connection(make, sock=sock)
                return connection
            if proxy is not None:
                way = await open_tunnel(sock, proxy, origin, self._limits.answer)
            else:
                way, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
            return await _start_tls(way, make(), self._tls, origin.host)
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message.rstrip(".")
            raise Untrusted(f"The certificate of {origin} is not trusted ({why}).") from error
        except ssl.SSLError as error:
            raise Untrusted(f"{origin} refused TLS ({error.reason or error}); check scheme and port.") from error
        except OSError as error:
            raise Unreachable(f"{origin} broke off while connecting ({error.strerror or error}).") from error


async def _start_tls(way: asyncio.Transport, connection: Connection, context: ssl.SSLContext, host: str) -> Connection:
    if way.is_closing():
        raise ConnectionResetError("the connection was closed")
    try:
        tls = await asyncio.get_running_loop().start_tls(way, connection, context, server_hostname=host)
    except BaseException:
        way.abort()
        raise
    if tls is None:
        raise ConnectionResetError("the connection was closed")
    connection.secured(tls, way)
    return connection
