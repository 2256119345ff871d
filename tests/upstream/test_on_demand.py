"""An upstream whose model comes and goes: what it says of itself, and which requests bring it back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from servery.engine.errors import LoadError
from servery.engine.stats import EngineInfo, EngineLife
from servery.telemetry.residency import ModelState, ReleasedBy, Residency
from servery.upstream.on_demand import OnDemandUpstream
from servery.upstream.residence import Residence, Stay
from servery.upstream.roster import Roster
from servery.upstream.upstream import Call, Chunk, Health
from servery.wire.completions import CompletionRequest
from servery.wire.errors import ApiError
from servery.wire.tokenize import TokenizeRequest
from tests.server.fakes import FakeUpstream
from tests.upstream.fake_engine import asking
from tests.upstream.fake_sleeper import FakeSleeper

INFO: Any = object()


class FakeModel(FakeUpstream):
    """A scripted upstream whose model comes and goes as a `FakeSleeper` does."""

    def __init__(self, name: str = "m") -> None:
        super().__init__(Chunk(data=b"one"), Chunk(data=b"two"), name=name)
        self.sleeper = FakeSleeper(name)
        self.has_loaded = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sleeper, name)

    async def start(self, memory_bytes: int | None = None) -> None:
        await self.sleeper.start(memory_bytes)
        self.has_loaded = True

    async def stop(self) -> None:
        await self.sleeper.stop()

    def info(self) -> EngineInfo | None:
        return INFO if self.has_loaded else None

    def life(self) -> EngineLife:
        return EngineLife(failures={}, restarts=0)

    def adapter_uses(self) -> dict[str, int]:
        return {}


def make(**stay: Any) -> tuple[FakeModel, OnDemandUpstream]:
    inner = FakeModel()
    return inner, OnDemandUpstream(inner, Residence(inner, Stay(**stay), Roster(), clock=lambda: 100.0))


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(limited())


async def answer(upstream: OnDemandUpstream) -> bytes:
    request, call = CompletionRequest(model="m", prompt="x"), Call(id="a")
    return b"".join([chunk.data async for chunk in upstream.answer(asking(request, call), call)])


def test_a_request_brings_the_model_and_its_state_is_told() -> None:
    async def story() -> None:
        _, upstream = make(on_demand=True)
        assert (upstream.model().state, upstream.health()) == ("unloaded", Health(True, "it is unloaded", 0.0))
        assert await answer(upstream) == b"onetwo"
        assert (upstream.model().state, upstream.health()) == ("loaded", Health(True, "", 0.5))
        await upstream.residence.sleep(1, 0.0)
        assert (upstream.model().state, upstream.health()) == ("sleeping", Health(True, "it is sleeping", 0.0))
        assert await answer(upstream) == b"onetwo"

    run(story)


def test_one_that_was_unloaded_is_not_waited_for() -> None:
    async def story() -> None:
        _, upstream = make()
        assert upstream.health() == Health(False, "it is unloaded", 0.0, is_wanted=False)
        await upstream.start()
        await upstream.residence.unload(0.0)
        assert upstream.health() == Health(False, "it is unloaded", 0.0, is_wanted=False)
        with pytest.raises(ApiError, match="requests do not load it: POST /v1/models/load does"):
            await answer(upstream)

    run(story)


def test_one_that_is_being_loaded_at_the_start_is() -> None:
    async def story() -> None:
        inner, upstream = make()
        inner.sleeper.gate.clear()
        loading = asyncio.create_task(upstream.start())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert upstream.health() == Health(False, "it is loading", 0.0)
        inner.sleeper.gate.set()
        await loading

    run(story)


@pytest.mark.parametrize("on_demand", [True, False])
def test_a_failure_is_told_until_the_model_is_there_without_where_it_lies(on_demand: bool) -> None:
    async def story() -> None:
        inner, upstream = make(on_demand=on_demand)
        inner.sleeper.fails = [LoadError("/models/m/config.json is damaged.")]
        with pytest.raises(LoadError, match="/models/m"):
            await upstream.start()
        model = upstream.model()
        assert (model.state, model.load_error) == ("failed", "m/config.json is damaged.")
        reason = "it could not be loaded: m/config.json is damaged."
        assert upstream.health() == Health(False, reason, 0.0, is_wanted=not on_demand)
        assert upstream.residence.figures() == Residency(
            state=ModelState.FAILED, loads=0, failed_loads=1, load_s=0.0, error="m/config.json is damaged.",
            releases=dict.fromkeys(ReleasedBy, 0),
        )  # fmt: skip
        await upstream.start()
        assert (upstream.model().state, upstream.model().load_error) == ("loaded", None)

    run(story)


def test_who_unloads_one_that_failed_has_seen_why() -> None:
    async def story() -> None:
        inner, upstream = make()
        inner.sleeper.fails = [LoadError("damaged")]
        with pytest.raises(LoadError):
            await upstream.start()
        await upstream.residence.unload(0.0)
        assert (upstream.model().state, upstream.model().load_error) == ("unloaded", None)

    run(story)


def test_texts_are_read_while_the_model_sleeps() -> None:
    async def story() -> None:
        inner, upstream = make(on_demand=True)
        assert await upstream.tokenize(TokenizeRequest(model="m", prompt="x"))
        await upstream.residence.sleep(2, 0.0)
        assert await upstream.tokenize(TokenizeRequest(model="m", prompt="x"))
        assert inner.sleeper.told == ["start", "stop"]

    run(story)


def test_an_adapter_of_a_model_that_sleeps_is_not_unloaded() -> None:
    async def story() -> None:
        _, upstream = make()
        with pytest.raises(ApiError, match="The model 'm' is unloaded; load it first") as refused:
            upstream.unload_adapter("sql")
        assert refused.value.status == 409

    run(story)
