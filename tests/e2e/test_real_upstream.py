"""A server that others made, where one runs: `SERVERY_TEST_UPSTREAM="llama.cpp http://127.0.0.1:8080/v1 model"`.

The words are the kind, the address and what the model is called there; it needs to know how to chat, no more.
"""

import json
import os
from typing import Any

import pytest

from servery.config.types import Kind
from servery.upstream.ask import Api
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from tests.e2e.test_upstreams import LIMITS, PATHS, STORY, asked, get, streamed, text
from tests.upstream.elsewhere import deployment, said

UPSTREAM = os.environ.get("SERVERY_TEST_UPSTREAM", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not UPSTREAM, reason="SERVERY_TEST_UPSTREAM names no server")]


def answered(api: Api, **fields: Any) -> list[Chunk]:
    kind, url, model = UPSTREAM.split()
    config = deployment(Kind(kind), url, model=model, apis={"chat", "completions"})
    return get(config, asked(api, **{LIMITS[api]: 12, **fields}))


@pytest.mark.parametrize("api", list(PATHS))
def test_every_client_reads_the_same_whole_and_streamed(api: Api) -> None:
    whole, stream = answered(api), answered(api, stream=True)
    body = json.loads(whole[-1].data)

    assert body["model"] == "mine"
    assert streamed(api, said(stream)) == text(api, body)
    assert [chunk.finish_reason for chunk in stream if chunk.finish_reason] == ["length"]
    assert whole[-1].usage is not None
    assert whole[-1].usage.completion_tokens == 12
    assert stream[-1].usage is not None or stream[-1].is_estimated or any(chunk.usage for chunk in stream)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_forced_call_has_arguments_that_can_be_read(is_stream: bool) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tool = {"name": "look", "input_schema": parameters}
    choice = {"type": "tool", "name": "look"}
    chunks = answered(Api.MESSAGES, tools=[tool], tool_choice=choice, stream=is_stream, max_tokens=60)

    if is_stream:
        events = [json.loads(line[6:]) for line in said(chunks).decode().splitlines() if line.startswith("data: {")]
        pieces = [event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"]
        arguments = json.loads("".join(pieces))
    else:
        arguments = json.loads(said(chunks))["content"][-1]["input"]
    assert set(arguments) == {"a"}


@pytest.mark.parametrize("api", list(PATHS))
def test_a_prompt_that_is_too_long_is_known_as_such(api: Api) -> None:
    field = "input" if api is Api.RESPONSES else "messages"
    with pytest.raises(ApiError) as caught:
        answered(api, **{field: [{"role": "user", "content": "Tell me a story. " * 20_000}]})

    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_what_is_said_before_is_gone_on_with() -> None:
    begun = {"role": "assistant", "content": "Once upon a time, there was"}
    chunks = answered(Api.MESSAGES, messages=[*STORY, begun])

    assert "Once upon a time" not in text(Api.MESSAGES, json.loads(said(chunks)))
