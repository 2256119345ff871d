"""Names, addresses, and which connections may be kept when they change."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from servery.http import dial
from servery.http.client import HttpClient
from servery.http.errors import UnknownHost, Unreachable
from servery.http.limits import ClientLimits
from servery.http.proxy import Proxies
from servery.http.resolver import Address, Resolver
from servery.http.url import Origin
from tests.http.conftest import Run
from tests.http.raw_server import OK, Peer, always, serving, until
from tests.ports import closed_port

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """A resolver's other end: what each name means now. Counts what is asked."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        if self.gate is not None:
            await self.gate.wait()
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (V6, 1, 6, "", (ip, port, 0, 0)) if ":" in ip else (V4, 1, 6, "", (ip, port)) for ip in self.known[host]
        ]


class Clock:
    """What a resolver sees of an event loop, with a clock that a test sets."""

    def __init__(self, names: Names) -> None:
        self.now = 100.0
        self.getaddrinfo = names.getaddrinfo
        self.create_task = asyncio.get_running_loop().create_task

    def time(self) -> float:
        return self.now


def hosts(addresses: tuple[Address, ...]) -> list[str]:
    return [address.host for address in addresses]


def test_a_name_is_believed_for_a_while_and_looked_up_once_for_many() -> None:
    async def story() -> None:
        names = Names(a=["10.0.0.1"])
        clock = Clock(names)
        resolver = Resolver(clock, believed_s=30)  # type: ignore[arg-type]
        found = await asyncio.gather(*(resolver.addresses("a", 80) for _ in range(5)))
        assert [hosts(each) for each in found] == [["10.0.0.1"]] * 5
        assert names.asked == ["a"]
        names.known["a"] = ["10.0.0.2"]
        clock.now += 29
        assert hosts(await resolver.addresses("a", 80)) == ["10.0.0.1"]
        assert clock.now < resolver.known_until("a", 80)
        clock.now += 2
        assert clock.now >= resolver.known_until("a", 80)
        assert hosts(await resolver.addresses("a", 80)) == ["10.0.0.2"]
        assert names.asked == ["a", "a"]

    asyncio.run(story())


def test_one_who_leaves_does_not_take_the_look_up_from_the_others() -> None:
    async def story() -> None:
        names = Names(a=["10.0.0.1"])
        names.gate = asyncio.Event()
        resolver = Resolver(Clock(names), believed_s=30)  # type: ignore[arg-type]
        tasks = [asyncio.ensure_future(resolver.addresses("a", 80)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        names.gate.set()
        assert hosts(await tasks[1]) == ["10.0.0.1"]
        assert names.asked == ["a"]

    asyncio.run(story())


def test_families_take_turns_and_literals_need_no_look_up() -> None:
    async def story() -> None:
        names = Names(a=["fd00::1", "fd00::2", "fd00::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"])
        resolver = Resolver(Clock(names), believed_s=30)  # type: ignore[arg-type]
        mixed = ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2", "10.0.0.3"]
        assert hosts(await resolver.addresses("a", 80)) == mixed
        assert await resolver.addresses("::1", 80) == (Address(V6, ("::1", 80, 0, 0)),)
        assert await resolver.addresses("127.0.0.1", 80) == (Address(V4, ("127.0.0.1", 80)),)
        assert names.asked == ["a"]
        with pytest.raises(UnknownHost, match="No address is known for 'b'"):
            await resolver.addresses("b", 80)

    asyncio.run(story())


def test_an_address_that_refuses_is_passed_over(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server:
            refusing, good = (Address(V4, ("127.0.0.1", port)) for port in (closed, server.port))
            sock = await dial.connect([refusing, good], 10, "x")
            assert sock.getpeername()[1] == server.port
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sock.close()
            with pytest.raises(Unreachable) as caught:
                await dial.connect([refusing, refusing], 10, "http://x")
            refused = f"127.0.0.1: {os.strerror(errno.ECONNREFUSED)}"
            assert str(caught.value) == f"Nothing answers at http://x ({refused}; {refused})."

    with closed_port() as closed:
        run(story)


def test_an_address_that_is_silent_is_raced_by_the_next(run: Run) -> None:
    async def story() -> None:
        with socket.socket() as full:  # its queue is full: it answers nobody
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            silent = Address(V4, full.getsockname())
            fillers = []
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(silent.sockaddr)
                fillers.append(filler)
            async with serving(always(OK)) as server:
                good = Address(V4, ("127.0.0.1", server.port))
                sock = await dial.connect([silent, good], 0.02, "x")
                assert sock.getpeername()[1] == server.port
                sock.close()
                task = asyncio.ensure_future(dial.connect([silent, silent], 0.01, "x"))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            for filler in fillers:
                filler.close()

    run(story)


@asynccontextmanager
async def client(names: Names, limits: ClientLimits) -> AsyncIterator[HttpClient]:
    http = HttpClient(limits, proxies=Proxies())
    http._resolver._loop = Clock(names)  # type: ignore[assignment]
    try:
        yield http
    finally:
        await http.aclose()


async def ask(http: HttpClient, origin: Origin) -> bytes:
    async with await http.request(origin, "GET", "/") as response:
        return await response.read(10)


def test_when_a_name_moves_new_requests_go_where_it_is_now(run: Run) -> None:
    """Connections to addresses that are not the name's any more are closed once they are idle."""

    async def story() -> None:
        async def script(peer: Peer) -> None:
            places.append(peer.writer.get_extra_info("sockname")[0])
            while True:
                asked = await peer.request()
                if asked.line.startswith(b"GET /slow"):
                    await go.wait()
                await peer.send(OK)

        places: list[str] = []
        go = asyncio.Event()
        names = Names(name=["127.0.0.1"])
        async with serving(script) as server, client(names, ClientLimits()) as http:
            other = await asyncio.start_server(server.accept, "127.0.0.2", server.port)
            origin = Origin("http", "name", server.port)
            assert await ask(http, origin) == b"ok"
            slow = asyncio.ensure_future(http.request(origin, "GET", "/slow"))
            await until(lambda: len(server.asked) == 2)
            assert await ask(http, origin) == b"ok"
            assert places == ["127.0.0.1"] * 2
            names.known["name"] = ["127.0.0.2"]
            http._resolver._loop.now += 31  # type: ignore[attr-defined]
            assert await ask(http, origin) == b"ok"  # still on the old one, and looks again
            await until(lambda: server.open == 1)
            assert await ask(http, origin) == b"ok"
            assert places[2:] == ["127.0.0.2"]
            go.set()
            assert await (await slow).read(10) == b"ok"
            await until(lambda: server.open == 1)
            other.close()

    run(story)


def test_a_resolver_that_fails_takes_no_connection_away(run: Run) -> None:
    async def story() -> None:
        names = Names(name=["127.0.0.1"])
        async with serving(always(OK)) as server, client(names, ClientLimits()) as http:
            origin = Origin("http", "name", server.port)
            assert await ask(http, origin) == b"ok"
            names.known.clear()
            http._resolver._loop.now += 31  # type: ignore[attr-defined]
            for _ in range(3):
                assert await ask(http, origin) == b"ok"
                await asyncio.sleep(0)
            assert server.connections == 1
            with pytest.raises(UnknownHost) as caught:
                await ask(http, Origin("http", "nobody", 1))
            assert caught.value.origin == "http://nobody:1"

    run(story)


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
def test_a_name_that_cannot_be_asked_for_is_unknown(run: Run, host: str) -> None:
    async def story() -> None:
        http = HttpClient(proxies=Proxies())
        try:
            with pytest.raises(UnknownHost, match="cannot be the name of a host"):
                await ask(http, Origin("http", host, 80))
        finally:
            await http.aclose()

    run(story)
