"""An open loop measures from when a request was due, whatever the server or this client does meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from servery.bench import closed_loop, open_loop
from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.measured import Measured
from servery.bench.percentile import quantile
from servery.bench.planned import Planned
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.validity import faults
from tests.scripted_server import DONE, chunk, event, head


@dataclass
class TimedServer:
    """Answers each request with one token after the next of `delays`; notes when it wrote it.

    With `is_serial` it is a server that does one thing at a time: who comes while it works waits.
    """

    delays: list[float]
    is_serial: bool = False
    port: int = 0
    wrote: dict[str, float] = field(default_factory=dict)
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def connect(self) -> Client:
        self.connections += 1
        return Client(Address.parse(f"http://localhost:{self.port}"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = next(int(line.split(":")[1]) for line in top.split("\r\n") if line.startswith("content-length"))
                body = (await reader.readexactly(size)).decode()
                await self._answer(body.split('"user":"')[1].split('"')[0], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _answer(self, name: str, writer: asyncio.StreamWriter) -> None:
        delay = self.delays[int(name) % len(self.delays)]
        if self.is_serial:
            async with self._lock:
                await asyncio.sleep(delay)
        else:
            await asyncio.sleep(delay)
        self.wrote[name] = time.perf_counter()
        writer.write(head() + chunk(event("a", "stop")) + chunk(DONE) + chunk(b""))


@asynccontextmanager
async def timed(server: TimedServer) -> AsyncIterator[TimedServer]:
    listener = await asyncio.start_server(server.serve, "localhost", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.leave()


def planned(count: int, gap_s: float) -> list[Planned]:
    return [Planned(index * gap_s, {"user": str(index)}) for index in range(count)]


def measure(
    server: TimedServer, requests: list[Planned], on_done: Callable[[Sample], bool] = lambda _: True
) -> Measured:
    async def run() -> Measured:
        async with timed(server):
            return await open_loop.run(requests, server.connect, on_done, load="open loop")

    return uvloop.run(run())


def test_known_latencies_are_measured_right_to_a_millisecond_at_p99() -> None:
    """The server's own clock, which is this process's, says when each token left.

    A busy machine stops this process anywhere in between; one that measures wrong is never right.
    """
    off = []
    for _ in range(20):
        server = TimedServer([0.004, 0.02, 0.011, 0.002])
        measured = measure(server, planned(400, 0.004))
        true = sorted(server.wrote[str(i)] - sample.scheduled for i, sample in enumerate(measured.samples))
        seen = sorted(sample.ttft_s or 0.0 for sample in measured.samples)
        assert len(seen) == 400
        off.append(abs(quantile(seen, 0.99) - quantile(true, 0.99)))
        if off[-1] < 1e-3:
            return
    pytest.fail(f"off by {off} s at p99")


def test_a_server_that_stalls_shows_in_the_tail_and_not_in_a_closed_loop() -> None:
    """One request takes a second at a server that does one at a time: all that were due meanwhile were late.

    A client that waits for its answer before it asks again sees one slow request of 100 (coordinated omission).
    """
    stalls = [1.0] + [0.0] * 99
    measured = measure(TimedServer(stalls, is_serial=True), planned(100, 0.01))
    late = [sample for sample in measured.samples if (sample.ttft_s or 0.0) > 0.5]
    assert len(late) >= 25

    async def closed() -> Measured:
        async with timed(TimedServer(stalls, is_serial=True)) as server:
            clients = [server.connect()]
            done = await closed_loop.run(clients, planned(100, 0.0), lambda _: None)
            clients[0].close()
            return done

    assert sum((sample.ttft_s or 0.0) > 0.9 for sample in uvloop.run(closed()).samples) == 1


def test_requests_go_out_whether_or_not_earlier_ones_are_answered() -> None:
    server = TimedServer([30.0, 30.0, 0.0])
    done: list[Sample] = []

    def enough(sample: Sample) -> bool:
        done.append(sample)
        return len(done) < 2

    measured = measure(server, planned(6, 0.001), enough)
    assert (len(measured.samples), server.connections >= 4, measured.is_open) == (2, True, True)


def test_connections_are_used_again() -> None:
    server = TimedServer([0.0])
    measure(server, planned(60, 0.005))
    assert server.connections < 60


def test_a_client_that_sends_late_makes_the_run_invalid() -> None:
    """Something in this process blocks the loop for a while: what was due then is sent late, and it says so."""
    measured = measure(TimedServer([0.0]), planned(40, 0.01), _blocking())
    assert max(sample.lag_s for sample in measured.samples) > 0.05
    assert any("sent requests late" in fault for fault in faults(measured, None))
    assert not any("late" in fault for fault in faults(measured, BenchSlo.parse("ttft:60s")))


def _blocking() -> Callable[[Sample], bool]:
    seen: list[Sample] = []

    def on_done(sample: Sample) -> bool:
        seen.append(sample)
        if len(seen) == 4:
            time.sleep(0.15)  # not a wait for anything: the fault itself
        return True

    return on_done


def test_nothing_to_send_is_measured_as_nothing() -> None:
    assert measure(TimedServer([0.0]), []).samples == []
