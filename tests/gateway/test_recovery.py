"""An upstream that is down for a while, or moves: a gateway in front of real servers, behind real sockets."""

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from servery.config.types import Config, DeploymentConfig, Kind, ModelConfig, Place, Retry, Tier
from servery.gateway.dispatch.breaker import State
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.http.client import HttpClient
from servery.http.resolver import Resolver
from servery.telemetry.metrics import Metrics
from servery.upstream.ask import Api, Ask, read_head
from servery.upstream.kinds import remote_upstream
from servery.wire.errors import ApiError
from tests.gateway.dummy import TEXT, Dummy, dummy
from tests.gateway.scripted import Reader

# Answers each request with 500, or well once it was told so by a signal; tells of each.
PROGRAM = """
import http.server, json, signal
state = {"status": 500}
def mend(*_):
    state["status"] = 200
    print("well", flush=True)
signal.signal(signal.SIGUSR1, mend)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        print("asked", flush=True)
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}
        body = json.dumps(answer if state["status"] == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(state["status"])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class Clock:
    """Stands still, but for what a test has turned it by: on a busy machine seconds pass anywhere."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return self._began_s + self.ahead_s


class Front:
    """A gateway whose model `m` runs at one place, elsewhere."""

    def __init__(self, url: str, http: HttpClient) -> None:
        self.clock = Clock()
        place = DeploymentConfig(name="d", kind=Kind.OPENAI, tier=Tier.API, model="well", url=url)
        model = ModelConfig(name="m", tiers=(("d",),), place=Place.FIRST, retry=Retry(attempts=1))
        config = Config(models={"m": model}, deployments={"d": place})
        fleet = Fleet.of(config, lambda each: remote_upstream(each, lambda: http), self.clock, random.Random(1).random)
        self.gateway = Gateway(fleet, Metrics(), clock=self.clock)

    @property
    def state(self) -> State:
        return self.gateway.fleet.deployments["d"].breaker.state

    async def ask(self, client: Reader | None = None) -> int:
        """The status of an answer, which is streamed if somebody reads along."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": client is not None}
        data, now = msgspec.json.encode(body), self.clock()
        ask = Ask(api=Api.CHAT, body=data, head=read_head(data), model="m", base="m", answer_id="a", created=1)
        exchange = self.gateway.exchange(
            ask, client or Reader(), request_id="r", arrived_s=now, deadline_s=now + 50.0, keep_alive_s=15.0
        )
        try:
            await self.gateway.handle(exchange)
        except ApiError as error:
            return error.status
        return 200

    async def ask_together(self, count: int) -> list[int]:
        """The statuses of so many requests at once, the least first."""
        return sorted(await asyncio.gather(*(self.ask() for _ in range(count))))


@contextlib.asynccontextmanager
async def front(url: str) -> AsyncIterator[Front]:
    http = HttpClient()
    try:
        yield Front(url, http)
    finally:
        await http.aclose()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(bounded())


def test_of_many_requests_one_finds_out_whether_a_server_is_well_again() -> None:
    """The breaker's table says so; here with a server that fails, stays so for the first probe, and is mended."""

    async def story() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
        lines = process.stdout
        assert lines is not None
        try:
            port = int(await lines.readline())
            async with front(f"http://127.0.0.1:{port}/v1") as made:
                assert [await made.ask() for _ in range(5)] == [500] * 5
                assert [await lines.readline() for _ in range(5)] == [b"asked\n"] * 5
                assert made.state is State.OPEN
                assert await made.ask_together(4) == [503] * 4
                made.clock.ahead_s += 5.0
                assert await made.ask_together(4) == [500, 503, 503, 503]
                assert made.state is State.OPEN
                process.send_signal(signal.SIGUSR1)
                assert [await lines.readline() for _ in range(2)] == [b"asked\n", b"well\n"]
                made.clock.ahead_s += 4.0  # it is open for twice as long now
                assert await made.ask_together(4) == [503] * 4
                made.clock.ahead_s += 6.0
                assert await made.ask_together(4) == [200, 503, 503, 503]
                assert made.state is State.CLOSED
                assert await made.ask_together(4) == [200] * 4
                assert [await lines.readline() for _ in range(5)] == [b"asked\n"] * 5
        finally:
            process.kill()
            await process.wait()

    run(story)


def test_a_deployment_whose_name_leads_elsewhere_is_asked_there_and_what_is_under_way_ends_where_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with dummy() as old:
            new, leads = Dummy(), ["127.0.0.1"]
            moved = await asyncio.start_server(new.serve, "127.0.0.2", old.port)

            async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
                assert host == "model.test"
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (leads[0], port))]

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            async with moved, front(f"http://model.test:{old.port}/v1") as made:
                reader = Reader()
                under_way = asyncio.create_task(made.ask(reader))
                await old.begun.wait()
                leads[0] = "127.0.0.2"
                assert await made.ask() == 200  # what was looked up is believed for a while
                assert not new.begun.is_set()
                monkeypatch.setattr(Resolver, "known_until", lambda *given: 0.0)  # until now
                assert await made.ask_together(3) == [200] * 3
                assert new.begun.is_set()
                assert not under_way.done()
                old.heard.set()  # it waits for that before its fourth word
                assert (await under_way, reader.content) == (200, TEXT)

    run(story)
