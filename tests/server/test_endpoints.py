import asyncio
from typing import Any

import pytest

from servery.upstream.upstream import Chunk, Health
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest
from servery.wire.embeddings import EmbeddingRequest
from servery.wire.rerank import RerankRequest
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_app

RANK = {"query": "once", "documents": ["a"]}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("path", "body", "kind", "prefix"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, ChatRequest, "chatcmpl-"),
        ("/v1/completions", {"prompt": "once"}, CompletionRequest, "cmpl-"),
        ("/v1/embeddings", {"input": "once"}, EmbeddingRequest, "embd-"),
        *((path, RANK, RerankRequest, "rerank-") for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
    ],
)
def test_each_path_takes_its_kind_of_request(path: str, body: dict[str, Any], kind: type, prefix: str) -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(data=b'{"done":true}'))
        call = await ask(make_app(upstream), "POST", path, {"model": "m", **body})

        assert (call.status, call.json) == (200, {"done": True})
        [(request, sent)] = upstream.requests
        assert isinstance(request, kind)
        assert upstream.asks[0].answer_id.startswith(prefix)
        assert sent.deadline is not None

    asyncio.run(story())


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize"]
)
def test_a_body_that_is_no_json_is_a_400_everywhere(path: str) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream()), "POST", path, b"{")
        assert (call.status, call.error["code"]) == (400, "invalid_json")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "once"}),
        ("/v1/embeddings", {"input": "once"}),
        ("/v1/rerank", RANK),
        ("/tokenize", {"prompt": "once"}),
        ("/detokenize", {"tokens": [1]}),
    ],
)
def test_an_unknown_model_is_a_404_everywhere(path: str, body: dict[str, Any]) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream(), FakeUpstream(name="n")), "POST", path, {"model": "x", **body})

        assert (call.status, call.error["code"]) == (404, "model_not_found")
        assert "Served here: 'm', 'n'." in call.error["message"]

    asyncio.run(story())


def test_models_are_listed_and_found_by_ids_with_slashes() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), FakeUpstream(name="org/model"))
        listed = await ask(app, "GET", "/v1/models")
        one = await ask(app, "GET", "/v1/models/org/model")
        none = await ask(app, "GET", "/v1/models/other")

        assert [model["id"] for model in listed.json["data"]] == ["m", "org/model"]
        assert one.json == {
            "id": "org/model", "object": "model", "created": 1, "owned_by": "servery", "max_model_len": 2048,
            "root": "org/model", "parent": None, "state": "loaded", "load_error": None,
        }  # fmt: skip
        assert (none.status, none.error["code"]) == (404, "model_not_found")

    asyncio.run(story())


def test_anthropics_clients_read_models_and_their_errors_in_their_own_words() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), FakeUpstream(name="org/model"))
        theirs = {"anthropic_version": "2023-06-01"}
        listed = await ask(app, "GET", "/v1/models", **theirs)
        one = await ask(app, "GET", "/v1/models/org/model", **theirs)
        none = await ask(app, "GET", "/v1/models/other", **theirs)
        nowhere = await ask(app, "GET", "/v1/nowhere", **theirs)

        assert [(model["type"], model["id"]) for model in listed.json["data"]] == [
            ("model", "m"),
            ("model", "org/model"),
        ]
        assert (one.json["display_name"], one.json["max_tokens"]) == ("org/model", 2047)
        for refused in (none, nowhere):
            assert (refused.status, refused.json["type"], refused.error["type"]) == (404, "error", "not_found_error")

    asyncio.run(story())


def test_only_one_model_needs_no_name_to_tokenize() -> None:
    async def story() -> None:
        one = make_app(FakeUpstream())
        two = make_app(FakeUpstream(), FakeUpstream(name="n"))

        assert (await ask(one, "POST", "/tokenize", {"prompt": "a"})).json["tokens"] == [1, 2]
        assert (await ask(one, "POST", "/detokenize", {"tokens": [1]})).json == {"prompt": "text"}
        unclear = await ask(two, "POST", "/tokenize", {"prompt": "a"})
        assert (unclear.status, unclear.error["code"]) == (400, "missing_required_parameter")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("state", "health", "ready"),
    [
        (Health(True, "", 0.1), 200, 200),
        (Health(False, "its engine is loading", 0.0), 200, 503),
        (Health(False, "its engine is restarting", 0.0, is_alive=False), 503, 503),
        (Health(False, "it is unloaded", 0.0, is_wanted=False), 200, 200),
    ],
)
def test_alive_and_ready_are_different_questions(state: Health, health: int, ready: int) -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        upstream.state = state
        app = make_app(upstream)

        alive, taking = await ask(app, "GET", "/health"), await ask(app, "HEAD", "/ready")
        assert (alive.status, taking.status) == (health, ready)
        assert ready == 200 or f"takes no requests: {state.reason}." in taking.error["message"]
        assert health == 200 or f"The model 'm' is down: {state.reason}." in alive.error["message"]

    asyncio.run(story())


def test_metrics_are_in_prometheus_text_format() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream())
        await ask(app, "GET", "/health")
        call = await ask(app, "GET", "/metrics")

        assert call.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'servery_http_requests_total{method="GET",route="/health",status="200"} 1.0' in call.body.decode()

    asyncio.run(story())
