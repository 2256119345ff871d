"""A way through a proxy: CONNECT, and the bytes that follow are the origin's."""

import asyncio
import socket

from servery.http.answer_reader import AnswerLimits, AnswerReader, Head
from servery.http.errors import HttpError, ProxyRefused
from servery.http.proxy import Proxy
from servery.http.url import Origin


class _Asking(asyncio.Protocol):
    """Waits for the proxy's head."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._reader = AnswerReader(limits, is_bodyless=True)
        self.answered: asyncio.Future[Head] = asyncio.get_running_loop().create_future()

    @property
    def has_surplus(self) -> bool:
        """Whether bytes came after the head: the origin waits for our first word, so they are not the origin's."""
        return self._reader.has_surplus

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except HttpError as error:
            self._break(str(error))
        if self._reader.head is not None and not self.answered.done():
            self.answered.set_result(self._reader.head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(str(exc or "it closed the connection"))

    def _break(self, why: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(ProxyRefused(why))


async def open_tunnel(sock: socket.socket, proxy: Proxy, origin: Origin, limits: AnswerLimits) -> asyncio.Transport:
    """A transport whose bytes go to `origin`, through the proxy that `sock` is connected to. Raises `ProxyRefused`."""
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_connection(lambda: _Asking(limits), sock=sock)
    try:
        lines = f"CONNECT {origin.host_and_port} HTTP/1.1\r\nhost: {origin.host_and_port}\r\n".encode()
        if proxy.authorization is not None:
            lines += b"proxy-authorization: " + proxy.authorization + b"\r\n"
        transport.write(lines + b"\r\n")
        head = await asking.answered
    except ProxyRefused as error:
        transport.abort()
        raise ProxyRefused(f"The proxy {proxy} opened no way to {origin}: {error}.") from None
    except BaseException:
        transport.abort()
        raise
    if not 200 <= head.status < 300:
        transport.abort()
        advice = "; check the user and password in HTTPS_PROXY" if head.status == 407 else ""
        raise ProxyRefused(f"The proxy {proxy} refused a way to {origin} with status {head.status}{advice}.")
    if asking.has_surplus:
        transport.abort()
        raise ProxyRefused(f"The proxy {proxy} sent more than it was asked for on the way to {origin}.")
    return transport
