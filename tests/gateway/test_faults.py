"""Every fault of a real server behind a real socket: what the client reads, what is counted, who is asked next."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from servery.config.types import (
    Config,
    Continues,
    DeploymentConfig,
    Hedge,
    Kind,
    ModelConfig,
    Place,
    Retry,
    Tier,
    Timeouts,
)
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.http.client import HttpClient
from servery.telemetry.metrics import Metrics
from servery.upstream.ask import Api, Ask, read_head
from servery.upstream.kinds import remote_upstream
from servery.wire.errors import ApiError
from tests.gateway.dummy import EARLY, LATE, TEXT, Dummy, dummy
from tests.gateway.scripted import Reader, Rows
from tests.ports import closed_port

# Where something else than a limit is to end a request: on a busy machine reading the certificates alone takes long.
PATIENT = Timeouts(connect_s=50.0, first_token_s=50.0, stall_s=50.0, total_s=50.0)
# Where a limit is to end it: what is silent is waited for as long, and what is well must be quicker.
HASTY = Timeouts(connect_s=50.0, first_token_s=0.5, stall_s=0.5, total_s=50.0)
SILENT = {"slow-headers", "silent", "only-comments", "headers-only", "half", "stall", "stall-with-comments"}


class _Listener(Reader):
    """Lets the server know when it has read something."""

    def __init__(self, server: Dummy) -> None:
        super().__init__()
        self._server = server

    def read(self, events: bytes) -> None:
        super().read(events)
        if len(self.content) >= len("one two three "):
            self._server.heard.set()


@dataclass
class Gate:
    """A gateway whose model `m` runs at a deployment with a fault and, perhaps, at one without."""

    gateway: Gateway
    rows: Rows
    server: Dummy

    async def ask(
        self, *, stream: bool = True, api: Api = Api.CHAT, client: Reader | None = None
    ) -> tuple[Reader, ApiError | None]:
        words = {"prompt": "hi"} if api is Api.COMPLETIONS else {"messages": [{"role": "user", "content": "hi"}]}
        body = msgspec.json.encode({"model": "m", **words, "stream": stream})
        head, client, now = read_head(body), client or _Listener(self.server), time.monotonic()
        ask = Ask(api=api, body=body, head=head, model="m", base="m", answer_id=f"i{len(self.rows.rows)}", created=1)
        exchange = self.gateway.exchange(
            ask, client, request_id="r", arrived_s=now, deadline_s=now + 50.0, keep_alive_s=15.0
        )
        try:
            await self.gateway.handle(exchange)
        except ApiError as error:
            return client, error
        return client, None


@contextlib.asynccontextmanager
async def gate(
    fault: str,
    *,
    others: bool,
    retry: Retry | None = None,
    hedge: Hedge | None = None,
    timeouts: Timeouts | None = None,
    **fields: Any,
) -> AsyncIterator[Gate]:
    async with dummy() as server, contextlib.AsyncExitStack() as stack:
        client = HttpClient()
        stack.push_async_callback(client.aclose)
        url = f"http://127.0.0.1:{stack.enter_context(closed_port())}/v1" if fault == "refuse" else server.url
        if fault == "hang":  # the handshake of TLS belongs to connecting
            hanging = await asyncio.start_server(server.hang, "127.0.0.1", 0)
            await stack.enter_async_context(hanging)
            url = f"https://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/v1"
        names = {"bad": (fault, url), **({"good": ("well", server.url)} if others else {})}
        deployments = {
            name: DeploymentConfig(
                name=name, kind=Kind.VLLM, tier=Tier.SELF_HOSTED, model=model, url=where,
                apis=frozenset({"chat", "completions"}), **fields,
            )
            for name, (model, where) in names.items()
        }  # fmt: skip
        model = ModelConfig(
            name="m", tiers=(tuple(names),), place=Place.FIRST,
            timeouts=timeouts or (HASTY if fault in SILENT else PATIENT),
            retry=retry or Retry(attempts=2, base_s=0.0), hedge=hedge,
        )  # fmt: skip
        config = Config(models={"m": model}, deployments=deployments)
        fleet = Fleet.of(config, lambda each: remote_upstream(each, lambda: client), time.monotonic, random.random)
        rows = Rows()
        yield Gate(Gateway(fleet, Metrics(), rows), rows, server)


def run(story: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(bounded())


@pytest.mark.parametrize("fault", EARLY)
def test_before_the_first_event_every_fault_is_hidden_by_a_deployment_that_is_well(fault: str) -> None:
    async def story() -> None:
        async with gate(fault, others=True) as made:
            client, error = await made.ask()
            assert error is None
            assert (client.content, client.is_ended) == (TEXT, True)
            (row,) = made.rows.rows
            assert (row.outcome, row.deployment, row.attempts) == ("completed", "good", 2)
            assert (row.prompt_tokens, row.generated_tokens) == (3, 8)

    run(story)


TOLD = {
    "refuse": (503, "refused"),
    "reset": (503, "reset"),
    "close": (503, "reset"),
    "500": (500, "status_500"),
    "429": (429, "throttled"),
    "429-later": (429, "throttled"),
    "401": (502, "status_401"),
    "slow-headers": (504, "first_token_timeout"),
    "silent": (504, "first_token_timeout"),
    "only-comments": (504, "first_token_timeout"),
    "html": (502, "malformed"),
    "json": (502, "malformed"),
    "malformed-first": (502, "malformed"),
    "error-first": (500, "status_500"),
    "empty": (502, "cut"),
    "bad-length": (502, "malformed"),
}


@pytest.mark.parametrize("fault", EARLY)
def test_alone_every_fault_is_a_status_and_one_that_was_silent_is_not_asked_again(fault: str) -> None:
    async def story() -> None:
        async with gate(fault, others=False) as made:
            client, error = await made.ask()
            assert error is not None
            (row,) = made.rows.rows
            assert (error.status, row.error) == TOLD[fault]
            assert (client.data, row.attempts) == (b"", 1 if row.error in (
                "first_token_timeout", "status_401", "throttled") and fault != "429" else 2)  # fmt: skip
            if fault == "429-later":
                assert error.retry_after_s == pytest.approx(77.0, abs=1.0)
            counted = made.gateway.fleet.deployments["bad"].breaker.failure_rate(time.monotonic())[1]
            assert counted == (0 if fault in ("429", "429-later", "401") else row.attempts)

    run(story)


@pytest.mark.parametrize("fault", LATE)
def test_after_the_first_event_every_fault_is_an_error_in_the_stream_without_its_end(fault: str) -> None:
    async def story() -> None:
        async with gate(fault, others=True) as made:
            client, error = await made.ask()
            assert error is not None
            assert (client.content, client.is_ended) == ("one two three ", False)
            (row,) = made.rows.rows
            assert (row.outcome, row.deployment, row.attempts) == ("failed", "bad", 1)
            told = {"stall": "stall_timeout", "stall-with-comments": "stall_timeout", "malformed": "malformed",
                    "huge": "malformed", "error": "status_500"}  # fmt: skip
            late = "stall_timeout" if fault == "huge" else "reset"  # bytes that never become an event are no progress
            assert row.error in (told.get(fault, "cut"), late)
            rate = made.gateway.fleet.deployments["bad"].breaker.failure_rate(time.monotonic())
            assert rate == (1.0, 1)

    run(story)


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS])
@pytest.mark.parametrize("fault", LATE)
def test_a_deployment_that_can_go_on_hides_the_late_faults_too(fault: str, api: Api) -> None:
    async def story() -> None:
        async with gate(fault, others=True, continues=Continues.PREFILL) as made:
            client, error = await made.ask(api=api)
            assert error is None
            assert (client.content, client.is_ended) == (TEXT, True)
            (row,) = made.rows.rows
            assert (row.outcome, row.deployment, row.attempts) == ("completed", "good", 2)

    run(story)


@pytest.mark.parametrize("fault", ["cut", "500", "reset", "half", "headers-only", "html", "json", "bad-length", "429"])
def test_an_answer_that_is_not_streamed_is_tried_elsewhere_whenever_it_fails(fault: str) -> None:
    async def story() -> None:
        async with gate(fault, others=True) as made:
            client, error = await made.ask(stream=False)
            assert error is None
            assert msgspec.json.decode(client.data)["choices"][0]["message"]["content"] == TEXT
            assert (made.rows.rows[0].attempts, made.rows.rows[0].generated_tokens) == (2, 8)

    run(story)


@pytest.mark.parametrize("fault", ["slow-headers", "silent"])
def test_one_that_lost_against_another_is_aborted_at_once(fault: str) -> None:
    async def story() -> None:
        async with gate(fault, others=True, hedge=Hedge(after_s=0.01)) as made:
            client, error = await made.ask()
            assert (error, client.content) == (None, TEXT)
            assert (made.rows.rows[0].deployment, made.rows.rows[0].attempts) == ("good", 2)
            await made.server.left.wait()
            assert made.gateway.fleet.deployments["bad"].breaker.failure_rate(time.monotonic()) == (0.0, 0)

    run(story)


def test_what_comes_twice_is_passed_on_and_what_never_ends_is_stopped_when_its_reader_goes() -> None:
    async def story() -> None:
        async with gate("twice", others=False) as made:
            client, error = await made.ask()
            assert (error, client.content, client.is_ended) == (None, TEXT, True)
        async with gate("duplicates", others=False) as made:  # who can tell that they are none of the text
            client, error = await made.ask()
            assert (error, client.content) == (None, "".join(2 * each for each in re.findall(r"\S+ ?", TEXT)))
        async with gate("slow-second", others=False) as made:
            client, error = await made.ask()
            assert (error, client.content, made.rows.rows[0].attempts) == (None, TEXT, 1)
        async with gate("endless", others=False) as made:
            task = asyncio.create_task(made.ask())
            await made.server.heard.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert made.rows.rows[0].outcome == "shutdown"
            assert made.gateway.fleet.deployments["bad"].in_flight == 0

    run(story)


@pytest.mark.parametrize(
    ("fault", "stream"),
    [
        ("hang", True),  # while the connection is made
        ("hang", False),
        ("slow-headers", True),  # before the head
        ("slow-headers", False),
        ("silent", True),  # behind it
        ("headers-only", False),
        ("half", False),  # in the middle
        ("stall", True),
    ],
)
def test_a_client_that_goes_away_closes_the_connection_to_its_upstream(fault: str, stream: bool) -> None:
    async def story() -> None:
        async with gate(fault, others=False, timeouts=PATIENT) as made:
            task = asyncio.create_task(made.ask(stream=stream))
            await (made.server.heard if fault == "stall" else made.server.begun).wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await made.server.left.wait()
            there = made.gateway.fleet.deployments["bad"]
            assert (there.in_flight, there.breaker.failure_rate(time.monotonic())) == (0, (0.0, 0))

    run(story)


def test_a_client_that_does_not_read_holds_its_upstream_back() -> None:
    class Busy(Reader):
        async def stream(self, events: bytes) -> None:
            await super().stream(events)
            await read_on.wait()

        def stream_at_once(self, events: bytes) -> bool:
            return False

    read_on = asyncio.Event()

    async def story() -> None:
        async with gate("flood", others=False) as made:
            client = Busy()
            task = asyncio.create_task(made.ask(client=client))
            await made.server.held_back.wait()  # nobody takes what it sends: neither the gateway, nor what lies between
            assert len(client.writes) == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(story)
