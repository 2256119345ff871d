"""What is reserved for requests of every shape, against what the embedded engine then uses at most."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from servery.config.types import Limits, LimitsConfig
from servery.engine.engine import AsyncEngine
from servery.engine.request import FinishReason, NewRequest, Output
from servery.engine.stats import EngineInfo
from servery.gateway.admit.limits.estimate import Prices, agreed_bound, capped, completions_of, unasked_bound
from servery.gateway.admit.limits.limiter import Limiter
from servery.gateway.admit.limits.meter import Cost, Lease, Plan, Verdict, meters
from servery.gateway.dispatch.prompt_size import input_tokens
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.server.app import App
from servery.server.implied import implied_config
from servery.upstream.ask import Api, Ask, read_head
from servery.upstream.embedded import EmbeddedUpstream
from servery.wire.errors import ApiError
from tests.server.asgi import Call, ask
from tests.server.fakes import make_service
from tests.upstream.fake_engine import FakeEngine, out, save_checkpoint

WORDS = "hello world " * 30
CHAT = [{"role": "user", "content": WORDS}]
# What the chat template writes around each message, in tokens of a byte.
AROUND = 30


class Talkative(FakeEngine):
    """Writes as much as it may, of every completion."""

    @property
    def info(self) -> EngineInfo:
        return msgspec.structs.replace(super().info, max_model_len=10_000)

    async def generate(self, request: NewRequest) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        for index in range(request.params.n):
            text = "x" * (request.params.max_tokens or 9_000)
            embedding = [1.0, 0.0, 0.0, 0.0]
            one = out(text, index=index, end=FinishReason.LENGTH, embedding=embedding)
            one.request_id = request.request_id
            yield one


class Records:
    """Admits everything, and remembers it."""

    def __init__(self) -> None:
        self.settled: list[tuple[Cost, Cost]] = []

    async def reserve(self, plan: Plan, cost: Cost, lease_ms: int) -> Verdict:
        return Verdict(Lease(self, plan, cost, 1, 0, (0, 0)), [0] * len(plan.meters), 0.0)

    def settle(self, lease: Lease, used: Cost) -> None:
        self.settled.append((lease.cost, used))

    async def close(self) -> None:
        """Nothing to close."""


async def asked(folder: Path, *requests: tuple[str, dict[str, Any]]) -> tuple[list[tuple[Cost, Cost]], list[Call]]:
    """Each request's reservation and use, where a model's output is limited, and its answer."""
    upstream = EmbeddedUpstream("m", cast("AsyncEngine", Talkative(save_checkpoint(folder))))
    await upstream.start()
    service, records, told = make_service(upstream), Records(), list[Call]()
    config = implied_config(["m"], 60.0)
    models = {"m": replace(config.models["m"], limits=Limits(output_tokens_per_minute=10**6))}
    config = replace(config, models=models, limits=LimitsConfig(default_max_tokens=40))
    fleet = Fleet.of(config, lambda _: upstream, service.clock, lambda: 0.0)
    gateway = Gateway(fleet, service.metrics, limiter=Limiter(records), clock=service.clock)
    app = App(replace(service, gateway=gateway))
    for path, body in requests:
        if told and body.get("previous_response_id") == "":
            body["previous_response_id"] = told[-1].json["id"]
        told.append(await ask(app, "POST", path, body))
    return records.settled, told


SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": CHAT}),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 7, "n": 3}),
    ("/v1/chat/completions", {"messages": CHAT, "max_completion_tokens": 7}),
    ("/v1/completions", {"prompt": WORDS, "max_tokens": 7}),
    ("/v1/completions", {"prompt": [WORDS] * 16, "max_tokens": 7}),
    ("/v1/completions", {"prompt": ["a"] * 64, "max_tokens": 3, "n": 2}),
    ("/v1/completions", {"prompt": [1] * 500, "max_tokens": 7}),
    ("/v1/completions", {"prompt": [[1] * 9] * 20, "max_tokens": 7}),
    ("/v1/completions", {"prompt": [WORDS] * 3}),
    ("/v1/completions", {"prompt": "base64," + "A" * 8_000, "max_tokens": 7}),
    ("/v1/embeddings", {"input": [WORDS] * 16}),
    ("/v1/embeddings", {"input": [[1, 2, 3]] * 50}),
    *((path, {"query": WORDS, "documents": [WORDS] * 9}) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 7}),
    ("/v1/responses", {"input": WORDS, "instructions": WORDS, "max_output_tokens": 7}),
    ("/v1/responses", {"input": [{"role": "user", "content": WORDS}]}),
    *(
        (path, {"inputs": WORDS, "parameters": parameters})
        for path in ("/generate", "/generate_stream", "/")
        for parameters in ({}, {"max_new_tokens": 7}, {"max_new_tokens": 300})
    ),
]


@pytest.mark.parametrize(("path", "body"), SHAPES)
def test_no_request_uses_more_than_was_reserved(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    [(reserved, used)], [told] = asyncio.run(asked(tmp_path, (path, {"model": "m", **body})))
    assert told.status == 200, told.body
    assert used.output_tokens == reserved.output_tokens  # the engine writes as much as it may
    assert 0 < used.input_tokens <= 4 * reserved.input_tokens + AROUND


def test_a_conversation_that_is_kept_here_is_part_of_the_prompt(tmp_path: Path) -> None:
    first = {"model": "m", "input": WORDS * 5, "max_output_tokens": 7}
    after = {"model": "m", "input": "on", "max_output_tokens": 7, "previous_response_id": ""}
    settled, told = asyncio.run(asked(tmp_path, ("/v1/responses", first), ("/v1/responses", after)))
    assert [each.status for each in told] == [200, 200]
    assert settled[1][0].input_tokens > settled[0][0].input_tokens
    assert settled[1][1].input_tokens <= 4 * settled[1][0].input_tokens + 3 * AROUND


def one(api: Api = Api.CHAT, **fields: Any) -> Ask:
    body = msgspec.json.encode({"model": "m", **fields})
    return Ask(api=api, body=body, head=read_head(body), model="m", base="m", answer_id="id", created=5)


def test_only_images_in_messages_count_as_images() -> None:
    data = "data:image/png;base64," + "A" * 40_000
    by_url = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    inline = {"type": "image_url", "image_url": {"url": data}}
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 40_000}}
    for part in (by_url, inline, source):
        assert 1_024 < input_tokens(one(messages=[{"role": "user", "content": [part]}])) < 1_090
    result = {"type": "tool_result", "content": [source, source]}
    assert 2_048 < input_tokens(one(messages=[{"role": "user", "content": [result]}])) < 2_130
    text = {"type": "text", "text": data, "image_url": {"url": data}}
    for told in (data, [text], [{"type": "image_url", "image_url": {"url": "https://x/" + "A" * 40_000}}]):
        assert input_tokens(one(messages=[{"role": "user", "content": told}])) > 10_000
    assert input_tokens(one(messages=[], tools=[inline])) > 10_000


@pytest.mark.parametrize("name", ["n_predict", "max_new_tokens", "max_output_tokens", "max_completion_tokens"])
def test_a_bound_by_any_name_is_one_bound(name: str) -> None:
    with pytest.raises(ApiError, match=rf"'max_tokens' is 1 and '{name}' 100000") as caught:
        agreed_bound(one(max_tokens=1, **{name: 100_000}).head)
    assert (caught.value.status, caught.value.param) == (400, name)
    assert agreed_bound(one(max_tokens=7, **{name: 7}).head) == agreed_bound(one(**{name: 7}).head) == 7
    other = capped(one(messages=[], **{name: 9}), 9)
    assert (msgspec.json.decode(other.body)["max_tokens"], other.head.max_tokens) == (9, 9)


@pytest.mark.parametrize(
    ("request_", "limits", "expected"),
    [
        (one(messages=[]), {"output_tokens_per_minute": 60}, 60),
        (one(messages=[], n=4), {"output_tokens_per_minute": 60}, 15),
        (one(Api.COMPLETIONS, prompt=["a", "b", "c"]), {"output_tokens_per_minute": 60, "burst_s": 30.0}, 10),
        (one(messages=[]), {"microusd_per_day": 101}, 50),
        (one(Api.GENERATE, inputs="hi"), {"output_tokens_per_minute": 60}, 60),
        (one(Api.GENERATE, inputs="hi"), {"output_tokens_per_minute": 6000}, 100),
        (one(messages=[]), {"microusd_per_day": 0}, 1),
    ],
)
def test_who_names_no_bound_gets_what_the_limits_can_hold(request_: Ask, limits: dict[str, Any], expected: int) -> None:
    plan = Plan(meters("key", "k", Limits(**limits)))
    tokens, completions, prices = input_tokens(request_), completions_of(request_), Prices(1_000_000, 2_000_000)
    assert unasked_bound(request_, tokens, completions, plan, 4096, prices) == expected
