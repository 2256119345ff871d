"""The server as TGI's clients know it."""

import asyncio
from typing import Any

import pytest

from servery.upstream.ask import Api
from servery.upstream.upstream import Chunk
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_app


@pytest.mark.parametrize(
    ("path", "stream", "is_stream", "as_list"),
    [
        ("/generate", None, False, False), ("/generate", False, False, False), ("/generate_stream", None, True, False),
        ("/", False, False, True), ("/", True, True, True),
    ],
)  # fmt: skip
def test_the_path_says_how_the_answer_is_sent(path: str, stream: bool | None, is_stream: bool, as_list: bool) -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(data=b"data: 1\n\n"))
        call = await ask(make_app(upstream), "POST", path, {"inputs": "x", "stream": stream})

        [asked] = upstream.asks
        assert (asked.api, asked.is_stream, asked.as_list, asked.model) == (Api.GENERATE, is_stream, as_list, "m")
        assert (call.status, call.body) == (200, b"data: 1\n\n")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/generate", {"inputs": "x", "stream": True}, "'stream'"),
        ("/generate", {}, "'inputs'"),
        ("/generate_stream", {"inputs": "x", "parameters": {"watermark": True}}, "'parameters.watermark'"),
        (
            "/",
            {"inputs": "x", "parameters": {"details": True, "decoder_input_details": True}, "stream": True},
            "stream",
        ),
    ],
)
def test_what_is_wrong_is_a_422_in_tgi_s_words(path: str, body: dict[str, Any], names: str) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream()), "POST", path, body)
        assert (call.status, call.json["error_type"]) == (422, "validation")
        assert names in call.json["error"]

    asyncio.run(story())


def test_tgi_s_names_for_the_model_mean_the_only_one() -> None:
    async def story() -> None:
        alone, first = FakeUpstream(Chunk(data=b"{}")), FakeUpstream(name="a")
        chat = {"messages": [{"role": "user", "content": "x"}]}
        for name in ("tgi", "dummy"):
            assert (await ask(make_app(alone), "POST", "/v1/chat/completions", {"model": name, **chat})).status == 200
        two = make_app(first, FakeUpstream(name="b"))
        assert (await ask(two, "POST", "/v1/chat/completions", {"model": "tgi", **chat})).status == 404
        assert "Served here: 'a', 'b'" in (await ask(two, "POST", "/generate", {"inputs": "x"})).json["error"]

    asyncio.run(story())


def test_info_says_what_is_served() -> None:
    async def story() -> None:
        told = (await ask(make_app(FakeUpstream()), "GET", "/info")).json
        assert (told["model_id"], told["max_total_tokens"], told["router"]) == ("m", 2048, "servery")

    asyncio.run(story())
