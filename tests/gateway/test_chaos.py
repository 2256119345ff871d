"""Hours of mixed load over deployments that fail in every way, in virtual time: what must hold whatever happens."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs

from servery.config.types import Continues, Fallbacks, ModelConfig, Place, Retry, Slo, Timeouts
from servery.upstream.ask import Ask
from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.upstream.upstream import Call, Chunk, Health
from servery.wire.errors import ApiError, context_length_exceeded, failed, invalid, rate_limited
from servery.wire.message import MessageDelta
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Stage, Writer
from tests.gateway.virtual_time import now, run

TEXT = "All that is gold does not glitter, not all those who wander are lost."
FAILURES: list[Exception] = [
    UpstreamFailure(Kind.REFUSED, "refused"),
    UpstreamFailure(Kind.RESET, "reset"),
    UpstreamFailure(Kind.STATUS, "500", status=500),
    UpstreamFailure(Kind.STATUS, "401", status=401),
    UpstreamFailure(Kind.THROTTLED, "429", status=429),
    UpstreamFailure(Kind.THROTTLED, "429", status=429, retry_after_s=3.0),
    UpstreamFailure(Kind.OVERLOADED, "full"),
    UpstreamFailure(Kind.MALFORMED, "html"),
    UpstreamFailure(Kind.CUT, "cut"),
    UpstreamFailure(Kind.TIMEOUT, "connect", deadline=Deadline.CONNECT),
    rate_limited("full", 2.0),
    failed("broken"),
    invalid("wrong"),
    context_length_exceeded(5, 9, None, "messages"),
    ApiError(400, "no", code="content_filter"),
]


class Moody(Writer):
    """Writes well for a while, then fails for a while: at once, late, silently, or by not being ready."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(TEXT)
        self.chance = chance
        self.mood_until_s = 0.0
        self.is_well = True
        self.under_way = 0

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        self.under_way += 1
        try:
            async for chunk in self._moody(ask, call):
                yield chunk
        finally:
            self.under_way -= 1

    async def _moody(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        chance = self.chance
        if now() >= self.mood_until_s:
            self.mood_until_s = now() + chance.expovariate(1 / 30)
            self.is_well = chance.random() < 0.7
            self.state = Health(chance.random() < 0.9, "moody", 0.0)
        await asyncio.sleep(chance.expovariate(20))
        fault = "" if self.is_well or chance.random() < 0.2 else chance.choice(("early", "late", "silent", "stall"))
        if fault == "early":
            raise chance.choice(FAILURES)
        if fault == "silent":
            await asyncio.sleep(1e5)
        self.dies_after = chance.randrange(1, len(TEXT)) if fault in ("late", "stall") else None
        self.failure = chance.choice(FAILURES)
        if not ask.is_stream:
            if fault:
                raise self.failure
            yield Chunk(data=TEXT.encode(), usage=Usage.of(5, len(TEXT), 0))
            return
        dies_after, failure = self.dies_after, self.failure
        form, said = call.form or ask.form(), call.continued or ""
        data = form.start(Usage.of(5, 0, 0))
        for at, letter in enumerate(TEXT[len(said) :]):
            if at == dies_after:
                if fault == "stall":
                    await asyncio.sleep(1e5)
                raise failure
            await asyncio.sleep(chance.expovariate(100))
            delta = MessageDelta(content=letter)
            yield Chunk(data=data + form.delta(delta), tokens=1, prompt_tokens=0 if at else 5, deltas=(delta,))
            data = b""
        end, usage = MessageDelta(finish_reason="stop"), Usage.of(5, len(TEXT) - len(said), 0)
        yield Chunk(data=form.delta(end), finish_reason="stop", deltas=(end,))
        yield Chunk(data=form.end(usage), usage=usage)


@dataclass
class Seen:
    """What one client read and was told."""

    client: Reader
    error: ApiError | None
    is_stream: bool
    has_left: bool


def stage(chance: random.Random) -> Stage:
    timeouts = Timeouts(first_token_s=5.0, stall_s=3.0, total_s=60.0)
    common: dict[str, Any] = {"timeouts": timeouts, "retry": Retry(attempts=4), "slo": Slo(ttft_s=2.0, tpot_s=0.1)}
    models = [
        ModelConfig(
            name="m", tiers=(("a", "b"), ("c",)), place=chance.choice((Place.FIRST, Place.WEIGHTED, Place.LEAST_LOAD)),
            fallbacks=Fallbacks(error=("n",), context_window=("n",)), **common,
        ),
        ModelConfig(name="n", tiers=(("d",),), place=Place.LEAST_LOAD, **common),
    ]  # fmt: skip
    deployments: dict[str, dict[str, Any]] = {
        "a": {"continues": Continues.REPLAY, "max_concurrency": 6, "max_queue": 4},
        "b": {"continues": Continues.REPLAY, "max_concurrency": 6, "max_queue": 4},
        "c": {"continues": Continues.PREFILL},
        "d": {},
    }
    return Stage({name: Moody(chance) for name in "abcd"}, models=models, deployments=deployments)


async def client(made: Stage, chance: random.Random, at: int) -> Seen:
    """One request at a random time, whose client may leave at another."""
    await asyncio.sleep(chance.uniform(0, 600))
    is_stream, reader = chance.random() < 0.8, Reader(pace_s=chance.choice((0.0, 0.0, 0.01)))
    fields: dict[str, Any] = {"temperature": chance.choice((0, 1)), "stream": is_stream}
    exchange = made.exchange(reader, **fields)
    exchange.ask = structs.replace(exchange.ask, answer_id=f"id{at}")
    left: list[str] = []
    exchange.cut_by = lambda: left[0] if left else None
    task = asyncio.create_task(made.gateway.handle(exchange))
    if chance.random() < 0.1:
        await asyncio.wait({task}, timeout=chance.expovariate(1.0))
        if not task.done():
            left.append("client")
            task.cancel()
    try:
        await task
    except ApiError as error:
        return Seen(reader, error, is_stream, has_left=False)
    except asyncio.CancelledError:
        return Seen(reader, None, is_stream, has_left=True)
    return Seen(reader, None, is_stream, has_left=False)


SEEDS = [(0, 300), (1, 300), *(pytest.param(seed, 1500, marks=pytest.mark.slow) for seed in range(2, 6))]


@pytest.mark.parametrize(("seed", "clients"), SEEDS)
def test_every_exchange_has_one_end_of_which_the_client_and_the_ledger_agree(seed: int, clients: int) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        made = stage(chance)
        seen = await asyncio.gather(*[client(made, chance, at) for at in range(clients)])

        rows = {row.id: row for row in made.rows.rows}
        assert len(rows) == len(made.rows.rows) == len(seen)
        for at, one in enumerate(seen):
            row = rows[f"id{at}"]
            if one.has_left:
                assert row.outcome == "client_gone"
            elif one.error is not None:
                assert (row.outcome in ("failed", "refused"), one.client.is_ended) == (True, False)
                assert row.error
                assert TEXT.startswith(one.client.content)  # what it has is right, as far as it goes
            else:
                text = one.client.content if one.is_stream else one.client.data.decode()
                assert (row.outcome, text, one.client.is_ended) == ("completed", TEXT, True)
                assert (row.generated_tokens, row.prompt_tokens) == (len(TEXT), 5)
            assert row.attempts <= 4 + 4  # of the model, and of the one that stands in for it
        assert set(Counter(row.outcome for row in rows.values())) == {"completed", "failed", "refused", "client_gone"}

        for deployment in made.gateway.fleet.deployments.values():
            assert (deployment.slots.in_flight, deployment.slots.waiting) == (0, 0)
            assert isinstance(deployment.upstream, Moody)
            assert deployment.upstream.under_way == 0
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []

    run(story)
