"""What Anthropic's API is sent. Its official client's types say whether that is a request."""

import json
from typing import Any

import pytest
from anthropic.types import MessageCreateParams
from pydantic import TypeAdapter

from servery.upstream.anthropic.request import message_request
from servery.upstream.failure import UpstreamFailure
from servery.wire.anthropic import decode_anthropic
from servery.wire.chat import decode_chat
from servery.wire.responses import decode_responses

NEW, OLD, OLDEST = "claude-opus-4-6", "claude-sonnet-4-20250514", "claude-3-haiku-20240307"
HI = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,aGk="
LOOK = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {"type": "object"}}}
GO = {"type": "function", "function": {"name": "go"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
LOOP = [HI, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "blue"}]  # fmt: skip
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
_ORACLE: TypeAdapter[Any] = TypeAdapter(MessageCreateParams)


def sent(model: str = NEW, **fields: Any) -> dict[str, Any]:
    """The request for the chat with `fields`, which Anthropic's own types accept."""
    body = json.dumps({"model": "m", "messages": [HI], **fields}).encode()
    made: dict[str, Any] = json.loads(message_request(decode_chat(body), model).body)
    _ORACLE.validate_python(made)
    return made


def refusal(model: str = NEW, **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(UpstreamFailure) as caught:
        sent(model, **fields)
    failure = caught.value
    assert (failure.error.status, failure.may_go_elsewhere, failure.may_repeat) == (400, True, False)
    assert not failure.counts_against_health
    return failure.error.param, failure.error.message


def test_a_chat_is_put_into_anthropics_words() -> None:
    system = {"role": "system", "content": "be brief"}
    fields = {"stop": "END", "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stream": True, "user": "u"}

    assert sent(messages=[system, HI], max_tokens=9, **fields) == {
        "model": NEW,
        "max_tokens": 9,
        "system": "be brief",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "stop_sequences": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stream": True,
        "metadata": {"user_id": "u"},
    }  # fmt: skip


@pytest.mark.parametrize(("model", "limit"), [(NEW, 32_000), ("claude-3-5-haiku-latest", 8_192), (OLDEST, 4_096)])
def test_without_a_limit_the_models_own_is_asked_for(model: str, limit: int) -> None:
    assert sent(model)["max_tokens"] == limit


def test_calls_and_their_results_are_blocks_of_alternating_turns() -> None:
    second = {"id": "call_2", "function": {"name": "go", "arguments": ""}}
    calls = {"role": "assistant", "content": "let me see", "tool_calls": [CALL, second]}
    results = [{"role": "tool", "tool_call_id": f"call_{at}", "content": text} for at, text in ((1, "blue"), (2, ""))]

    made = sent(messages=[HI, calls, *results, {"role": "user", "content": "so?"}], tools=[LOOK, GO])

    assert made["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "sky"}},
                {"type": "tool_use", "id": "call_2", "name": "go", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "blue"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": []},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    assert made["tools"] == [
        {"name": "look", "description": "sees", "input_schema": {"type": "object"}},
        {"name": "go", "input_schema": {"type": "object", "properties": {}}},
    ]


ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [GO]}}


@pytest.mark.parametrize(
    ("fields", "choice", "names"),
    [
        ({}, None, ["look", "go"]),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}, ["look", "go"]),
        ({"tool_choice": "required"}, {"type": "any"}, ["look", "go"]),
        ({"tool_choice": "none"}, {"type": "none"}, ["look", "go"]),
        ({"tool_choice": GO}, {"type": "tool", "name": "go", "disable_parallel_tool_use": True}, ["go"]),
        ({"tool_choice": ALLOWED}, {"type": "tool", "name": "go"}, ["go"]),
    ],
)
def test_a_choice_of_tools_is_kept(fields: dict[str, Any], choice: Any, names: list[str]) -> None:
    made = sent(tools=[LOOK, GO], **fields)

    assert (made.get("tool_choice"), [tool["name"] for tool in made["tools"]]) == (choice, names)


def test_images_go_along_as_data_or_addresses_also_in_results() -> None:
    inline = {"type": "image_url", "image_url": {"url": PNG}}
    linked = {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "high"}}
    data = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    link = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}

    made = sent(messages=[{"role": "user", "content": [inline, linked]}])
    in_result = sent(messages=[*LOOP[:2], {**LOOP[2], "content": [inline]}], tools=[LOOK])

    assert made["messages"][0]["content"] == [data, link]
    assert in_result["messages"][-1]["content"][0]["content"] == [data]


def test_a_schema_is_an_output_format_or_for_older_models_a_forced_call() -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "integer", "description": "{minimum: 1}"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    by_call = {"name": "give_answer", "description": "Give the answer.", "input_schema": SCHEMA}

    assert sent(response_format=FORMAT)["output_config"] == {"format": {"type": "json_schema", "schema": closed}}
    for model, format_, tool in (
        (OLD, FORMAT, by_call),
        (NEW, {"type": "json_object"}, {**by_call, "input_schema": {"type": "object"}}),
    ):
        made = sent(model, response_format=format_)
        choice = {"type": "tool", "name": "give_answer", "disable_parallel_tool_use": True}
        assert (made["tools"], made["tool_choice"], made.get("output_config")) == ([tool], choice, None)


def test_strict_functions_are_strict_there_too() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": SCHEMA}}

    [tool] = sent(tools=[strict])["tools"]

    assert (tool["strict"], tool["input_schema"]["additionalProperties"]) == (True, False)


@pytest.mark.parametrize(
    ("model", "fields", "thinking", "effort"),
    [
        (NEW, {}, None, None),
        (NEW, {"reasoning_effort": "none"}, {"type": "disabled"}, None),
        (NEW, {"reasoning_effort": "minimal"}, {"type": "adaptive", "display": "summarized"}, "low"),
        (NEW, {"reasoning_effort": "max"}, {"type": "adaptive", "display": "summarized"}, "max"),
        (NEW, {"thinking_token_budget": 5_000}, {"type": "adaptive", "display": "summarized"}, "medium"),
        (NEW, {"chat_template_kwargs": {"enable_thinking": True}}, {"type": "adaptive", "display": "summarized"}, None),
        (NEW, {"chat_template_kwargs": {"enable_thinking": False}}, {"type": "disabled"}, None),
        (OLD, {"reasoning_effort": "low"}, {"type": "enabled", "budget_tokens": 2_048}, None),
        (OLD, {"thinking_token_budget": 5}, {"type": "enabled", "budget_tokens": 1_024}, None),
        (OLD, {"reasoning_effort": "high", "max_tokens": 2_000}, {"type": "enabled", "budget_tokens": 1_999}, None),
        (OLD, {"reasoning_effort": "high", "max_tokens": 100}, None, None),
        (OLD, {"reasoning_effort": "high", "messages": LOOP, "tools": [LOOK]}, None, None),
        (OLDEST, {"reasoning_effort": "high"}, None, None),
    ],
)
def test_reasoning_is_asked_for_as_the_model_can(
    model: str, fields: dict[str, Any], thinking: Any, effort: str | None
) -> None:
    made = sent(model, **fields)

    assert (made.get("thinking"), made.get("output_config", {}).get("effort")) == (thinking, effort)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temperature": 1.5}, "temperature"),
        ({"chat_template_kwargs": {"mood": "good"}}, "chat_template_kwargs.mood"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_object"}, "tools": [LOOK]}, "response_format"),
        ({"messages": [HI, {"role": "assistant", "content": "I"}]}, "messages"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}, HI]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG.replace("png", "bmp")}}]}]},
            "messages[0].content[0]",
        ),
    ],
)  # fmt: skip
def test_what_the_api_has_no_word_for_may_be_asked_elsewhere(fields: dict[str, Any], param: str) -> None:
    found, message = refusal(**fields)

    assert found == param
    assert message.startswith(f"'{param}' is not supported by this server: ")


def test_a_budget_that_a_model_cannot_have_is_an_error_unless_agents_send_it_to_all() -> None:
    agents = {
        "model": "m",
        "max_tokens": 9_000,
        "messages": [HI],
        "thinking": {"type": "enabled", "budget_tokens": 2_000},
    }

    assert refusal(OLDEST, thinking_token_budget=100)[0] == "thinking_token_budget"
    made = message_request(decode_anthropic(json.dumps(agents).encode()).chat(), OLDEST)
    assert "thinking" not in json.loads(made.body)


def test_what_means_nothing_is_accepted() -> None:
    fields = {"n": 1, "presence_penalty": 0, "logprobs": False, "min_p": 0, "top_k": -1, "ignore_eos": False}

    assert sent(**fields) == sent()


def test_an_answer_is_gone_on_with() -> None:
    made = sent(messages=[HI, {"role": "assistant", "content": "I am"}], continue_final_message=True)

    assert made["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "I am"}]}


def test_a_responses_request_gets_there_as_well() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "blue"},
    ]
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
    body = {"model": "m", "input": items, "instructions": "be brief", "tools": [tool], "reasoning": {"effort": "low"}}

    made = json.loads(message_request(decode_responses(json.dumps(body).encode()).chat([]), NEW).body)

    _ORACLE.validate_python(made)
    assert [block["type"] for turn in made["messages"] for block in turn["content"]] == [
        "image", "tool_use", "tool_result",
    ]  # fmt: skip
    assert (made["system"], made["output_config"]) == ("be brief", {"effort": "low"})


def test_a_request_comes_back_as_it_was() -> None:
    """Our own reader of Anthropic's API understands what our writer of it says."""
    fields = {"max_tokens": 9, "tools": [LOOK, GO], "tool_choice": "required", "stop": ["a"], "temperature": 0.0}
    first = sent(messages=[{"role": "system", "content": "s"}, *LOOP], **fields)

    chat = decode_anthropic(json.dumps({**first, "model": "m"}).encode()).chat()

    assert json.loads(message_request(chat, NEW).body) == first
