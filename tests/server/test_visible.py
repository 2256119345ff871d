"""What a key may not ask for is as if it were not there, in every call; tiers count everywhere as they do for answers."""

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from servery.config.types import Config, DeploymentConfig, Kind, ModelConfig, Place, Tier
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.server.app import App
from servery.server.auth import Admission, digest_of
from servery.server.front import Fronts
from servery.server.service import Service
from servery.upstream.caller import Caller
from servery.upstream.upstream import Chunk
from servery.wire.chat import ChatRequest
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest, encode_text, encode_tokens
from tests.server.asgi import Call, ask
from tests.server.fakes import FakeUpstream, make_service

KEY = {"authorization": "Bearer key", "content_type": "application/json"}
CHAT = [{"role": "user", "content": "x"}]


class Counting(FakeUpstream):
    """An upstream that notes who was asked to count."""

    def __init__(self, name: str) -> None:
        super().__init__(Chunk(data=b'{"id":"x"}', tokens=1, prompt_tokens=2), name=name)
        self.counted = 0

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        self.counted += 1
        return encode_tokens([1, 2], 2048, None)

    async def count(self, request: ChatRequest) -> int:
        self.counted += 1
        return 2

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        self.counted += 1
        return encode_text("text")


def holding(service: Service, **terms: Any) -> App:
    """The application, with one key of these terms."""
    service.keys.take([Admission(digest_of(b"key"), Caller(key="k", tenant=b"k", **terms))])
    return App(service)


def placed() -> tuple[Service, Counting, Counting]:
    """`m` runs here and there, `n` there alone: an engine of this process, and an API."""
    here, there = Counting("here"), Counting("there")
    by_name = {"here": here, "there": there}
    config = Config(
        models={
            "m": ModelConfig(name="m", tiers=(("here",), ("there",)), place=Place.FIRST),
            "n": ModelConfig(name="n", tiers=(("there",),), place=Place.FIRST),
        },
        deployments={
            "here": DeploymentConfig(name="here", kind=Kind.EMBEDDED, tier=Tier.EMBEDDED, model="m"),
            "there": DeploymentConfig(name="there", kind=Kind.OPENAI, tier=Tier.API, model="m", url="http://x"),
        },
    )
    fleet = Fleet.of(config, lambda each: by_name[each.name], time.monotonic, lambda: 0.0)
    service = make_service(here)
    gateway = Gateway(fleet, service.metrics, clock=service.clock)
    return dataclasses.replace(service, gateway=gateway, upstreams=Fronts(gateway)), here, there


CALLS = [
    ("GET", "/v1/models/{}", None),
    ("POST", "/tokenize", {"prompt": "x"}),
    ("POST", "/detokenize", {"tokens": [1]}),
    ("POST", "/v1/messages/count_tokens", {"messages": CHAT}),
    ("POST", "/v1/responses/input_tokens", {"input": "x"}),
    ("POST", "/v1/chat/completions", {"messages": CHAT}),
    ("POST", "/v1/messages", {"messages": CHAT, "max_tokens": 5}),
    ("POST", "/v1/embeddings", {"input": "x"}),
]


async def call(app: App, method: str, path: str, body: dict[str, Any] | None, model: str) -> Call:
    return await ask(app, method, path.format(model), b"" if body is None else {"model": model, **body}, **KEY)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_model_that_is_hidden_is_told_of_as_one_that_never_was(
    method: str, path: str, body: dict[str, Any] | None
) -> None:
    async def story() -> None:
        upstreams = [FakeUpstream(name=name) for name in ("mine", "hidden")]
        upstreams[1].loaded["tune"] = None  # type: ignore[assignment]
        service = make_service(*upstreams, aliases={"nick": "mine", "veiled": "hidden"})
        app = holding(service, models=frozenset({"mine"}))
        for model in ("hidden", "hidden:tune", "tune", "veiled", "nothing"):
            told = await call(app, method, path, body, model)
            message = f"The model '{model}' does not exist. Served here: 'mine', 'nick'."
            assert (told.status, told.json["error"]["message"]) == (404, message)

    asyncio.run(story())


def test_lists_and_the_state_of_engines_have_the_own_models_alone() -> None:
    async def story() -> None:
        service = make_service(*(FakeUpstream(name=name) for name in ("mine", "hidden")))
        app = holding(service, models=frozenset({"mine"}))
        assert [each["id"] for each in (await ask(app, "GET", "/v1/models", **KEY)).json["data"]] == ["mine"]
        assert (await ask(app, "GET", "/info", **KEY)).json["model_id"] == "mine"
        assert (await ask(app, "POST", "/tokenize", {"prompt": "x"}, **KEY)).status == 200
        hidden, other = [await ask(app, "GET", f"/is_sleeping?model={name}", **KEY) for name in ("hidden", "other")]
        assert (hidden.status, other.status) == (404, 404)
        assert hidden.error["message"] == other.error["message"].replace("other", "hidden")
        holding(service, models=frozenset())
        assert "hidden" not in (await ask(app, "GET", "/info", **KEY)).json["error"]

    asyncio.run(story())


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_model_that_runs_at_no_tier_of_the_key_is_hidden(method: str, path: str, body: dict[str, Any] | None) -> None:
    async def story() -> None:
        service, here, there = placed()
        app = holding(service, tiers=frozenset({Tier.EMBEDDED}))
        told = await call(app, method, path, body, "n")
        message = "The model 'n' does not exist. Served here: 'm'."
        assert (told.status, told.json["error"]["message"]) == (404, message)
        assert [each["id"] for each in (await ask(app, "GET", "/v1/models", **KEY)).json["data"]] == ["m"]
        assert (there.counted, there.asks, here.counted, here.asks) == (0, [], 0, [])

    asyncio.run(story())


@pytest.mark.parametrize(("method", "path", "body"), CALLS[1:5])
@pytest.mark.parametrize(("tiers", "where"), [({Tier.API}, (0, 1)), ({Tier.EMBEDDED}, (1, 0)), (None, (1, 0))])
def test_tokens_are_counted_at_the_tiers_of_the_key(
    method: str, path: str, body: dict[str, Any], tiers: set[Tier] | None, where: tuple[int, int]
) -> None:
    async def story() -> None:
        service, here, there = placed()
        app = holding(service, tiers=None if tiers is None else frozenset(tiers))
        assert (await call(app, method, path, body, "m")).status == 200
        assert (here.counted, there.counted) == where

    asyncio.run(story())
