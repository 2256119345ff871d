"""What Bedrock is sent. AWS's own client, with its model of the service, says whether that is a request."""

import json
from typing import Any

import pytest

from servery.upstream.bedrock.request import converse_request
from servery.upstream.failure import UpstreamFailure
from servery.wire.anthropic import decode_anthropic
from servery.wire.chat import ChatRequest, decode_chat
from tests.upstream.bedrock.aws import Aws

CLAUDE, OLD_CLAUDE = "eu.anthropic.claude-sonnet-4-6-v1:0", "anthropic.claude-3-7-sonnet-20250219-v1:0"
NOVA, QWEN, OSS = "amazon.nova-pro-v1:0", "qwen.qwen3-32b-v1:0", "openai.gpt-oss-120b-1:0"
HI = {"role": "user", "content": "hi"}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
LOOK = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {"type": "object"}}}
GO = {"type": "function", "function": {"name": "go"}}
CALL = {"id": "functions.look:0", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
LOOP = [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "functions.look:0", "content": "blue"}]  # fmt: skip
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def aws() -> Aws:
    return Aws()


def chat(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": [HI], **fields}).encode())


def sent(aws: Aws, model: str = CLAUDE, **fields: Any) -> dict[str, Any]:
    """The request for the chat with `fields`, which is what AWS's own client makes of it, too."""
    made: dict[str, Any] = json.loads(converse_request(chat(**fields), model).body)
    aws.answer = json.dumps({"output": {"message": {"role": "assistant", "content": []}}, "stopReason": "end_turn"}).encode()  # fmt: skip
    aws.converse(model, made)
    assert aws.sent[1] == made
    return made


def refusal(model: str = CLAUDE, **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(UpstreamFailure) as caught:
        converse_request(chat(**fields), model)
    assert (caught.value.error.status, caught.value.may_go_elsewhere) == (400, True)
    return caught.value.error.param, caught.value.error.message


def test_a_chat_is_put_into_bedrocks_words(aws: Aws) -> None:
    system = {"role": "system", "content": "be brief"}
    fields = {"stop": "END", "temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_tokens": 9}

    assert sent(aws, messages=[system, HI], **fields) == {
        "system": [{"text": "be brief"}],
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "inferenceConfig": {"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"top_k": 5},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
    }
    assert sent(aws) == {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}


def test_calls_and_their_results_are_blocks_with_ids_that_bedrock_takes(aws: Aws) -> None:
    made = sent(aws, messages=LOOP, tools=[LOOK, GO])
    use = made["messages"][1]["content"][0]["toolUse"]

    assert use == {"toolUseId": "call_ec0002042636dd8aa1e59e55", "name": "look", "input": {"at": "sky"}}
    assert made["messages"][2] == {
        "role": "user",
        "content": [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": "blue"}]}}],
    }
    assert made["toolConfig"] == {"tools": [
        {"toolSpec": {"name": "look", "description": "sees", "inputSchema": {"json": {"type": "object"}}}},
        {"toolSpec": {"name": "go", "inputSchema": {"json": {"type": "object", "properties": {}}}}},
    ]}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "choice", "more"),
    [
        ({"tool_choice": "auto"}, None, None),
        ({"tool_choice": "required"}, {"any": {}}, None),
        ({"tool_choice": GO}, {"tool": {"name": "go"}}, None),
        ({"parallel_tool_calls": False}, None, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": GO},
            {"tool": {"name": "go"}},
            {"type": "tool", "name": "go", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_a_choice_of_tools_is_kept(aws: Aws, fields: dict[str, Any], choice: Any, more: Any) -> None:
    made = sent(aws, tools=[LOOK, GO], **fields)

    assert made["toolConfig"].get("toolChoice") == choice
    assert made.get("additionalModelRequestFields", {}).get("tool_choice") == more


def test_tools_that_may_not_be_called_are_not_shown(aws: Aws) -> None:
    assert "toolConfig" not in sent(aws, tools=[LOOK], tool_choice="none")


def test_images_go_along_as_bytes_or_from_s3(aws: Aws) -> None:
    linked = {"type": "image_url", "image_url": {"url": "s3://bucket/a.jpeg"}}
    data = {"image": {"format": "png", "source": {"bytes": "aGk="}}}
    link = {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.jpeg"}}}}

    made = sent(aws, messages=[{"role": "user", "content": [PNG, linked]}])
    in_result = sent(aws, messages=[*LOOP[:2], {**LOOP[2], "content": [PNG]}], tools=[LOOK])

    assert made["messages"][0]["content"] == [data, link]
    assert in_result["messages"][-1]["content"][0]["toolResult"]["content"] == [data]


@pytest.mark.parametrize(("model", "is_closed"), [(CLAUDE, True), (QWEN, False)])
def test_a_schema_is_an_output_format(aws: Aws, model: str, is_closed: bool) -> None:
    made = sent(aws, model, response_format=FORMAT)["outputConfig"]["textFormat"]
    asked = made["structure"]["jsonSchema"]

    assert (made["type"], asked["name"]) == ("json_schema", "thing")
    assert json.loads(asked["schema"]) == ({**SCHEMA, "additionalProperties": False} if is_closed else SCHEMA)


@pytest.mark.parametrize("model", [OLD_CLAUDE, NOVA])
def test_older_models_are_held_to_a_schema_by_a_call(aws: Aws, model: str) -> None:
    tool = {"name": "give_answer", "description": "Give the answer.", "inputSchema": {"json": SCHEMA}}

    assert sent(aws, model, response_format=FORMAT)["toolConfig"] == {
        "tools": [{"toolSpec": tool}],
        "toolChoice": {"tool": {"name": "give_answer"}},
    }


@pytest.mark.parametrize(
    ("model", "fields", "more", "effort"),
    [
        (CLAUDE, {"reasoning_effort": "high"}, {"thinking": {"type": "adaptive", "display": "summarized"}}, "high"),
        (OLD_CLAUDE, {"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 2_048}}, None),
        (OSS, {"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}, None),
        (NOVA, {}, None, None),
    ],
)
def test_reasoning_is_asked_for_as_the_model_can(
    aws: Aws, model: str, fields: dict[str, Any], more: Any, effort: str | None
) -> None:
    made = sent(aws, model, **fields)

    assert (made.get("additionalModelRequestFields"), made.get("outputConfig", {}).get("effort")) == (more, effort)


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (CLAUDE, {"n": 2}, "n"),
        (CLAUDE, {"messages": LOOP}, "tools"),
        (CLAUDE, {"messages": LOOP, "tools": [LOOK], "tool_choice": "none"}, "tool_choice"),
        (NOVA, {"tools": [LOOK], "parallel_tool_calls": False}, "parallel_tool_calls"),
        (NOVA, {"top_k": 5}, "top_k"),
        (NOVA, {"reasoning_effort": "high"}, "reasoning_effort"),
        (
            CLAUDE,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}
                ]
            },
            "messages[0].content[0]",
        ),
    ],
)
def test_what_bedrock_has_no_word_for_may_be_asked_elsewhere(model: str, fields: dict[str, Any], param: str) -> None:
    found, message = refusal(model, **fields)

    assert found == param
    assert message.startswith(f"'{param}' is not supported by this server: ")


def test_agents_may_ask_any_model_to_think() -> None:
    body = {
        "model": "m",
        "max_tokens": 9_000,
        "messages": [HI],
        "thinking": {"type": "enabled", "budget_tokens": 2_000},
    }
    made = converse_request(decode_anthropic(json.dumps(body).encode()).chat(), NOVA)

    assert "additionalModelRequestFields" not in json.loads(made.body)
