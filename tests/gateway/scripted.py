"""Deployments that answer by a script, a client that reads along, and a gateway around them; all in virtual time."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from servery.config.types import Config, DeploymentConfig, Kind, ModelConfig, Place, Tier
from servery.gateway.exchange import Exchange
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.metrics import Metrics
from servery.upstream.ask import Api, Ask, read_head
from servery.upstream.caller import ANYBODY, Caller
from servery.upstream.upstream import Call, Chunk
from servery.wire.errors import ApiError
from servery.wire.message import MessageDelta
from servery.wire.usage import Usage
from tests.gateway.virtual_time import now
from tests.server.fakes import FakeUpstream

Step: TypeAlias = Chunk | BaseException | float | asyncio.Event

TOKEN = 0.01


class Scripted(FakeUpstream):
    """Plays one script per request, the last one again and again: chunks, exceptions, seconds to wait, events.

    Chunks go where the call says that they may go at once, unless `pours` is False.
    """

    def __init__(self, *scripts: Sequence[Step], pours: bool = True) -> None:
        super().__init__()
        self.pours = pours
        self.scripts = list(scripts)
        self.calls: list[Call] = []
        self.times: list[float] = []

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        self.asks.append(ask)
        self.calls.append(call)
        self.times.append(now())
        self.begun.set()
        script = self.scripts[min(len(self.calls), len(self.scripts)) - 1]
        try:
            for step in script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                elif not (self.pours and call.sink and call.sink.take and call.sink.take(step)):
                    yield step
        finally:
            self.closed += 1


class Writer(FakeUpstream):
    """Writes a text in the client's form, one letter at a time, as an engine would; `dies_after` so many letters."""

    def __init__(self, text: str, *, dies_after: int | None = None, failure: BaseException | None = None) -> None:
        super().__init__()
        self.text = text
        self.dies_after = dies_after
        self.failure = failure
        self.calls: list[Call] = []

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        self.calls.append(call)
        form, said = call.form or ask.form(), call.continued or ""
        data = form.start(Usage.of(5, 0, 0))
        try:
            for at, letter in enumerate(self.text[len(said) :]):
                if at == self.dies_after and self.failure is not None:
                    raise self.failure
                await asyncio.sleep(TOKEN)
                delta = MessageDelta(content=letter)
                data += form.delta(delta)
                yield Chunk(data=data, tokens=1, prompt_tokens=0 if at else 5, deltas=(delta,))
                data = b""
            end, usage = MessageDelta(finish_reason="stop"), Usage.of(5, len(self.text) - len(said), 0)
            yield Chunk(data=form.delta(end), finish_reason="stop", deltas=(end,))
            yield Chunk(data=form.end(usage), usage=usage)
        finally:
            self.closed += 1


@dataclass
class Reader:
    """A client. `pace_s` is how long it takes for each piece."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    data: bytes = b""
    writes: list[bytes] = field(default_factory=list)
    is_ended: bool = False
    comments: int = 0
    pace_s: float = 0.0

    async def stream(self, events: bytes) -> None:
        await asyncio.sleep(self.pace_s)
        self.read(events)

    def stream_at_once(self, events: bytes) -> bool:
        if self.pace_s > 0:
            return False
        self.read(events)
        return True

    def read(self, events: bytes) -> None:
        self.data += events
        self.writes.append(events)

    async def end_stream(self) -> None:
        self.is_ended = True

    async def whole(self, body: bytes) -> None:
        self.data, self.is_ended = body, True

    def keep_alive(self) -> None:
        self.comments += 1

    @property
    def content(self) -> str:
        """The text in a stream of chat chunks, or of completions."""
        events = [msgspec.json.decode(line[6:]) for line in self.data.split(b"\n") if line.startswith(b"data: ")]
        choices = [choice for event in events for choice in event["choices"]]
        return "".join(each["text"] if "text" in each else each["delta"].get("content") or "" for each in choices)


class Rows:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.rows: list[LedgerRow] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def add(self, row: LedgerRow) -> None:
        self.rows.append(row)


def deployment(name: str, **fields: Any) -> DeploymentConfig:
    values: dict[str, Any] = {"kind": Kind.VLLM, "tier": Tier.SELF_HOSTED, "model": "m", **fields}
    return DeploymentConfig(name=name, **values)


@dataclass
class Stage:
    """A gateway with deployments by their names, and one model `m` over all of them unless `models` says otherwise."""

    upstreams: Mapping[str, FakeUpstream]
    model: dict[str, Any] = field(default_factory=dict)
    models: Sequence[ModelConfig] = ()
    deployments: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    total_s: float = 600.0
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = Rows()
        self.metrics = Metrics()
        self.cut_by: str | None = None
        self.gateway = Gateway(self.fleet(), self.metrics, self.rows, clock=now, chance=random.Random(2).random)

    def fleet(self, before: Fleet | None = None) -> Fleet:
        values: dict[str, Any] = {"name": "m", "tiers": (tuple(self.upstreams),), "place": Place.FIRST, **self.model}
        models = self.models or (ModelConfig(**values),)
        config = Config(
            models={each.name: each for each in models},
            deployments={name: deployment(name, **self.deployments.get(name, {})) for name in self.upstreams},
            **self.config,
        )
        return Fleet.of(config, lambda each: self.upstreams[each.name], now, random.Random(1).random, before)

    def exchange(
        self, client: Reader, *, api: Api = Api.CHAT, priority: int = 0, caller: Caller = ANYBODY, **fields: Any
    ) -> Exchange:
        """A request of a client for model `m`, streamed unless it says otherwise."""
        texts: dict[Api, Any] = {Api.RESPONSES: {"input": "hi"}, Api.COMPLETIONS: {"prompt": "hi"}}
        asked = texts.get(api, {"messages": [{"role": "user", "content": "hi"}]})
        body = msgspec.json.encode({"model": "m", "stream": True, **asked, **fields})
        head = read_head(body)
        at = len(self.rows.rows)
        ask = Ask(
            api=api, body=body, head=head, model=head.model, base=head.model, answer_id=f"id{at}", created=5,
            priority=priority, owner=caller.tenant, caller=caller,
        )  # fmt: skip
        return self.gateway.exchange(
            ask, client, request_id="req", arrived_s=now(), deadline_s=now() + self.total_s, keep_alive_s=15.0,
            cut_by=lambda: self.cut_by,
        )  # fmt: skip

    async def ask(self, **fields: Any) -> "Told":
        """What a client was told, in the end."""
        client = Reader(pace_s=fields.pop("pace_s", 0.0))
        exchange = self.exchange(client, **fields)
        error: ApiError | None = None
        begun_s = now()
        try:
            await self.gateway.handle(exchange)
        except ApiError as caught:
            error = caught
        return Told(client, error, self.rows.rows[-1], now() - begun_s)


@dataclass(frozen=True)
class Told:
    """What came of a request."""

    client: Reader
    error: ApiError | None
    row: LedgerRow
    took_s: float

    @property
    def status(self) -> int:
        return 200 if self.error is None else self.error.status


def piece(text: str = "a", **fields: Any) -> Chunk:
    """A piece of a stream with one token."""
    return Chunk(data=b"data: " + text.encode() + b"\n\n", tokens=1, **fields)
