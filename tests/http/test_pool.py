"""The pool under any order of events: requests, cancellations, answers, cuts, failed connections."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from servery.http.client import HttpClient
from servery.http.connection import Connection
from servery.http.errors import HttpError, QueueFull, Unreachable
from servery.http.limits import ClientLimits
from servery.http.proxy import Proxies
from servery.http.url import Origin
from tests.http.raw_server import OK

ORIGIN = Origin("http", "10.0.0.1", 80)
LIMITS = ClientLimits(connections_per_origin=2, waiting_per_origin=2, crossed_s=60.0)


class Wire:
    """A transport whose other end the test is."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_open = True
        self.asked = 0  # requests that have no answer yet
        self.is_begun = False  # all but the last byte of the answer is out

    def get_extra_info(self, name: str) -> Any:
        return ("10.0.0.1", 80) if name == "peername" else None

    def is_closing(self) -> bool:
        return not self.is_open

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert self.is_open
        assert data.startswith(b"POST / HTTP/1.1\r\n")
        self.asked += 1
        assert self.asked == 1, "two requests at once on a connection"

    def abort(self) -> None:
        self.is_open = False

    def deliver(self, data: bytes) -> None:
        self.asked = 0
        self.is_begun = False
        assert self.connection is not None
        self.connection.data_received(data)

    def lose(self, error: Exception | None) -> None:
        self.is_open = False
        assert self.connection is not None
        if error is None:
            self.connection.eof_received()
        self.connection.connection_lost(error)


class World:
    """A client, its requests, its wires, and connections that are being made."""

    def __init__(self) -> None:
        self.http = HttpClient(LIMITS, proxies=Proxies())
        self.pool = self.http._add_pool(ORIGIN)
        self.pool._dialer.open = self._open  # type: ignore[method-assign]
        self.tasks: list[asyncio.Task[bytes]] = []
        self.wires: list[Wire] = []
        self.dialling: list[asyncio.Future[None]] = []

    async def _open(self, make: Callable[[], Connection], *_: object) -> Connection:
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dialling.append(opened)
        try:
            await opened
        finally:
            self.dialling.remove(opened)
        wire = Wire()
        wire.connection = make()
        wire.connection.connection_made(wire)  # type: ignore[arg-type]
        self.wires.append(wire)
        return wire.connection

    async def _ask(self) -> bytes:
        async with await self.http.request(ORIGIN, "POST", "/", is_repeatable=True) as response:
            return await response.read(10)

    def step(self, kind: str, number: int) -> None:
        """One thing that can happen; nothing, where there is nothing for it to happen to."""
        alive = [wire for wire in self.wires if wire.is_open]
        if kind == "ask":
            self.tasks.append(asyncio.ensure_future(self._ask()))
        elif kind == "cancel" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        elif kind in ("connected", "refused") and self.dialling:
            opened = self.dialling[number % len(self.dialling)]
            if not opened.done():
                refusal = Unreachable("nobody there")
                opened.set_result(None) if kind == "connected" else opened.set_exception(refusal)
        elif alive:
            self._happen(kind, alive[number % len(alive)])

    def _happen(self, kind: str, wire: Wire) -> None:
        if kind == "answer" and wire.asked:
            wire.deliver(OK[-1:] if wire.is_begun else OK)
        elif kind == "part" and wire.asked and not wire.is_begun:
            wire.is_begun = True
            wire.connection.data_received(OK[:-1])  # type: ignore[union-attr]
        elif kind == "junk" and not wire.is_begun:
            wire.deliver(b"junk")
        elif kind in ("end", "reset"):
            wire.lose(None if kind == "end" else ConnectionResetError())

    def check(self) -> None:
        """What must hold whenever nothing runs."""
        stats = self.pool.stats()
        alive = [wire for wire in self.wires if wire.is_open]
        assert stats.open == len(alive) + len(self.dialling) <= LIMITS.connections_per_origin
        assert stats.idle == sum(not wire.asked for wire in alive)
        busy = sum(not task.done() for task in self.tasks)
        assert stats.waiting == busy - len(self.dialling) - (len(alive) - stats.idle) <= LIMITS.waiting_per_origin
        assert stats.waiting == 0 or stats.open == LIMITS.connections_per_origin, "one waits although there is room"
        assert stats.waiting == 0 or stats.idle == 0, "one waits although a connection is idle"


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


KINDS = ["ask", "ask", "ask", "connected", "connected", "answer", "answer", "part", "cancel", "refused", "junk", "end", "reset"]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.booleans()), max_size=40))
def test_places_are_neither_lost_nor_given_twice(steps: list[tuple[str, int, bool]]) -> None:
    async def story() -> None:
        world = World()
        for kind, number, is_settled in steps:
            world.step(kind, number)
            if is_settled:  # else the next thing happens before anybody could react
                await settle()
                world.check()
        await settle()
        world.check()
        while any(not task.done() for task in world.tasks):
            for kind in ("connected", "answer"):
                for number in range(2):
                    world.step(kind, number)
                    await settle()
            if all(not wire.asked for wire in world.wires if wire.is_open) and not world.dialling:
                assert all(task.done() for task in world.tasks)
        results = await asyncio.gather(*world.tasks, return_exceptions=True)
        assert all(isinstance(result, HttpError | asyncio.CancelledError) or result == b"ok" for result in results)
        assert sum(isinstance(result, QueueFull) for result in results) <= max(0, len(results) - 4)
        world.check()
        kept = sum(each.timer is not None for each in world.pool._connections)
        assert len(world.http._timers) == kept + (1 if world.pool._sweeper else 0)
        await world.http.aclose()
        assert (world.pool.stats().open, len(world.http._timers)) == (0, 0)

    asyncio.run(asyncio.wait_for(story(), 60))
