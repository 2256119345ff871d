"""Through proxies: whole addresses for http, tunnels for https."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from servery.http.client import HttpClient
from servery.http.errors import HttpError, ProxyRefused, TimedOut, Unreachable
from servery.http.limits import Deadlines
from servery.http.proxy import Proxies
from servery.http.url import Origin, TlsFiles, parse_url
from tests.http.conftest import Authority, Run
from tests.http.raw_server import OK, Peer, always, once, serving


@asynccontextmanager
async def through(proxy: str) -> AsyncIterator[HttpClient]:
    http = HttpClient(proxies=Proxies.from_environment({"ALL_PROXY": proxy}))
    try:
        yield http
    finally:
        await http.aclose()


async def tunnel(peer: Peer) -> None:
    """A proxy that does what it is asked."""
    asked = await peer.request()
    host, _, port = asked.line.split()[1].decode().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await peer.send(b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n")
    try:
        await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))
    finally:
        writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_a_proxy_gets_the_whole_address_and_its_credentials(run: Run) -> None:
    async def story() -> None:
        async with (
            serving(always(OK)) as proxy,
            through(f"http://me:secret@127.0.0.1:{proxy.port}") as http,
        ):
            for url in ("http://api.example.com/v1/x", "http://other.example.com:81/v1/y"):
                origin, path = parse_url(url)
                async with await http.request(origin, "POST", path, body=b"{}") as response:
                    assert await response.read(10) == b"ok"
            assert [asked.line for asked in proxy.asked] == [
                b"POST http://api.example.com/v1/x HTTP/1.1",
                b"POST http://other.example.com:81/v1/y HTTP/1.1",
            ]
            assert [asked.get(b"host") for asked in proxy.asked] == [b"api.example.com", b"other.example.com:81"]
            assert proxy.asked[0].get(b"proxy-authorization") == b"Basic bWU6c2VjcmV0"

    run(story)


def test_tls_goes_through_a_tunnel_and_the_proxy_sees_nothing_of_it(run: Run, authority: Authority) -> None:
    async def story() -> None:
        context = authority.server_context(authority.localhost)
        async with (
            serving(tunnel) as proxy,
            serving(always(OK), context, host="localhost", tls=TlsFiles(ca=authority.ca)) as server,
            through(f"http://me:secret@127.0.0.1:{proxy.port}") as http,
        ):
            for _ in range(3):
                async with await http.request(server.origin, "GET", "/v1") as response:
                    assert await response.read(10) == b"ok"
            [asked] = proxy.asked
            assert asked.line == f"CONNECT localhost:{server.port} HTTP/1.1".encode()
            assert asked.headers == [
                (b"host", f"localhost:{server.port}".encode()),
                (b"proxy-authorization", b"Basic bWU6c2VjcmV0"),
            ]
            assert [asked.line for asked in server.asked] == [b"GET /v1 HTTP/1.1"] * 3
            assert server.asked[0].get(b"proxy-authorization") is None
            assert server.connections == 1

    run(story)


def test_the_certificate_is_still_the_origins(run: Run, authority: Authority) -> None:
    async def story() -> None:
        context = authority.server_context(authority.elsewhere)
        async with (
            serving(tunnel) as proxy,
            serving(always(OK), context, host="localhost", tls=TlsFiles(ca=authority.ca)) as server,
            through(f"http://127.0.0.1:{proxy.port}") as http,
        ):
            with pytest.raises(HttpError, match="is not trusted"):
                await http.request(server.origin, "GET", "/")
            assert server.asked == []

    run(story)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Who?\r\nContent-Length: 3\r\n\r\nwho", r"with status 407; check the user and password in HTTPS_P"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "refused a way to https://api.example.com with status 503"),
        (b"HTTP/1.1 302 There\r\nLocation: x\r\n\r\n", "with status 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "opened no way to https://api.example.com: it does not begin like one of HTTP"),
        (b"", "opened no way to https://api.example.com: it closed the connection"),
        (b"HTTP/1.1 200 OK\r\n", "opened no way to https://api.example.com: it closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01", "sent more than it was asked for"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, "more than 65536 bytes"),
    ],
)  # fmt: skip
def test_a_proxy_that_opens_no_way_is_named(run: Run, answer: bytes, why: str) -> None:
    async def story() -> None:
        async with serving(once(answer)) as proxy, through(f"http://me:secret@127.0.0.1:{proxy.port}") as http:
            with pytest.raises(ProxyRefused, match=why) as caught:
                await http.request(Origin("https", "api.example.com", 443), "GET", "/")
            error = caught.value
            assert str(error).startswith(f"The proxy http://127.0.0.1:{proxy.port} ")
            assert (error.request_written, error.origin) == (False, "https://api.example.com")
            assert http.stats()[0].open == 0

    run(story)


def test_a_proxy_that_is_silent_or_not_there_is_an_error_in_time(run: Run) -> None:
    async def story() -> None:
        async def silent(peer: Peer) -> None:
            await peer.gone()

        origin = Origin("https", "api.example.com", 443)
        async with serving(silent) as proxy, through(f"http://127.0.0.1:{proxy.port}") as http:
            with pytest.raises(TimedOut, match="connect limit"):
                await http.request(origin, "GET", "/", deadlines=Deadlines(connect_s=0.05))
            address = f"http://127.0.0.1:{proxy.port}"
        async with through(address) as http:
            with pytest.raises(Unreachable, match=f"at the proxy {address} on the way to {origin}"):
                await http.request(origin, "GET", "/")

    run(story)
