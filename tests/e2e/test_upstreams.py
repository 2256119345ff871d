"""Our own server as a deployment elsewhere: asked over real HTTP, in every API, by clients of every API."""

import asyncio
import json
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from servery.config.types import DeploymentConfig, Kind
from servery.upstream.ask import Api, Ask
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from tests.e2e.server_process import ServerProcess
from tests.upstream.elsewhere import answer, ask, deployment, said

MODEL = "amuse-draft"
PATHS = {Api.CHAT: "/v1/chat/completions", Api.MESSAGES: "/v1/messages", Api.RESPONSES: "/v1/responses"}
LIMITS = {Api.CHAT: "max_tokens", Api.MESSAGES: "max_tokens", Api.RESPONSES: "max_output_tokens"}
TYPES = {Api.CHAT: ChatCompletion, Api.MESSAGES: Message, Api.RESPONSES: Response}
STORY = [{"role": "user", "content": "Tell me a story about a fox."}]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
# What the same server is asked as: one that speaks all APIs, one that only chats, and Anthropic.
SPEAKERS = {
    "vllm": (Kind.VLLM, {"chat", "completions", "embeddings", "rerank", "messages", "responses"}),
    "tgi": (Kind.TGI, {"chat"}),
    "anthropic": (Kind.ANTHROPIC, {"messages"}),
}


def there(server: ServerProcess, speaker: str) -> DeploymentConfig:
    kind, apis = SPEAKERS[speaker]
    return deployment(kind, f"{server.url}/v1", model=MODEL, apis=apis)


def asked(api: Api, **fields: Any) -> Ask:
    field = "input" if api is Api.RESPONSES else "messages"
    return ask(api, **{"temperature": 0, LIMITS[api]: 24, field: STORY, **fields})


def get(config: DeploymentConfig, request: Ask) -> list[Chunk]:
    return asyncio.run(answer(config, request))


def text(api: Api, body: dict[str, Any]) -> str:
    """The words of an answer that is not streamed."""
    if api is Api.CHAT:
        return str(body["choices"][0]["message"]["content"])
    blocks = body["content"] if api is Api.MESSAGES else body["output"][-1]["content"]
    return "".join(block["text"] for block in blocks)


def streamed(api: Api, data: bytes) -> str:
    """The words of one that is."""
    events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: {")]
    if api is Api.CHAT:
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    if api is Api.MESSAGES:
        return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


@pytest.mark.parametrize("speaker", list(SPEAKERS))
@pytest.mark.parametrize("api", list(PATHS))
def test_every_client_gets_from_elsewhere_what_it_gets_here(server: ServerProcess, api: Api, speaker: str) -> None:
    request = asked(api)
    direct = server.ask("POST", PATHS[api], {**json.loads(request.body), "model": MODEL}).json
    whole = get(there(server, speaker), request)
    stream = get(there(server, speaker), asked(api, stream=True))

    body = json.loads(whole[-1].data)
    TYPES[api].model_validate(body)
    assert (body["model"], text(api, body)) == ("mine", text(api, direct))
    assert streamed(api, said(stream)) == text(api, direct)
    assert b'"model":"mine"' in said(stream)
    counted = [chunk.usage for chunk in stream if chunk.usage][-1]
    assert (counted.completion_tokens, counted.prompt_tokens) == (24, whole[-1].usage and whole[-1].usage.prompt_tokens)
    assert [chunk.finish_reason for chunk in stream if chunk.finish_reason] == ["length"]


@pytest.mark.parametrize("speaker", list(SPEAKERS))
@pytest.mark.parametrize("is_stream", [True, False])
def test_calls_get_through_in_both_directions(server: ServerProcess, speaker: str, is_stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": ADD}}
    first = {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
    ]}  # fmt: skip
    messages = [*STORY, first, {"role": "tool", "tool_call_id": "call_1", "content": "3"}, *STORY]
    request = asked(Api.CHAT, messages=messages, tools=[tool], tool_choice="required", stream=is_stream, max_tokens=60)
    chunks = get(there(server, speaker), request)

    if is_stream:
        events = [json.loads(line[6:]) for line in said(chunks).decode().splitlines() if line.startswith("data: {")]
        pieces = [
            call for event in events for each in event["choices"] for call in each["delta"].get("tool_calls") or []
        ]
        name, arguments = pieces[0]["function"]["name"], "".join(piece["function"]["arguments"] for piece in pieces)
    else:
        function = json.loads(said(chunks))["choices"][0]["message"]["tool_calls"][0]["function"]
        name, arguments = function["name"], function["arguments"]
    assert (name, set(json.loads(arguments))) == ("add", {"a", "b"})
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


@pytest.mark.parametrize("speaker", list(SPEAKERS))
def test_a_schema_holds_from_elsewhere(server: ServerProcess, speaker: str) -> None:
    properties = {"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    schema = {"type": "object", **properties}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    chunks = get(there(server, speaker), asked(Api.CHAT, response_format=wanted, max_tokens=60))

    assert set(json.loads(text(Api.CHAT, json.loads(said(chunks))))) == {"ok"}


def test_embeddings_ranks_and_completions_are_passed_on(server: ServerProcess) -> None:
    config = there(server, "vllm")
    vectors = json.loads(said(get(config, ask(Api.EMBEDDINGS))))
    ranks = json.loads(said(get(config, ask(Api.RERANK))))
    words = get(config, ask(Api.COMPLETIONS, stream=True, max_tokens=3))

    assert (vectors["model"], len(vectors["data"]), len(ranks["results"])) == ("mine", 1, 1)
    assert [chunk.usage.completion_tokens for chunk in words if chunk.usage] == [3]


@pytest.mark.parametrize("speaker", list(SPEAKERS))
def test_a_prompt_that_is_too_long_is_told_as_such_through_every_api(server: ServerProcess, speaker: str) -> None:
    long = [{"role": "user", "content": "Tell me a story. " * 2_000}]
    with pytest.raises(ApiError) as caught:
        get(there(server, speaker), asked(Api.CHAT, messages=long))

    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("speaker", ["vllm", "anthropic"])
def test_an_image_gets_as_far_as_the_model(server: ServerProcess, speaker: str) -> None:
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    with pytest.raises(ApiError, match="cannot be read; this model takes text only"):
        get(there(server, speaker), asked(Api.CHAT, messages=[{"role": "user", "content": [shown]}]))
