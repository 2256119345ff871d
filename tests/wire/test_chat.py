import json
from typing import Any

import pytest

from servery.wire.chat import decode_chat, template_messages
from servery.wire.errors import ApiError
from servery.wire.tools import template_tools

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


def request(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def refusal(**fields: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        decode_chat(request(**fields))
    return caught.value.status, caught.value.param, caught.value.code


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}},
        {"store": False, "service_tier": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
        {"service_tier": "default", "response_format": {"type": "text"}},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": TOOL["function"]["name"]}}},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"logprobs": True, "top_logprobs": 3},
        {"messages": [USER, {"role": "assistant", "content": "so", "refusal": None, "annotations": [], "audio": None}]},
    ],
)
def test_what_the_server_can_do_is_accepted(fields: dict[str, Any]) -> None:
    decode_chat(request(**fields))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"audio": {}}, "audio", "unsupported_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "invalid_value"),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
            "reasoning_effort",
            "invalid_value",
        ),
        ({"thinking_token_budget": 0}, "thinking_token_budget", "invalid_value"),
        ({"thinking_token_budget": -5}, "thinking_token_budget", "invalid_value"),
        ({"thinking_token_budget": 2**31 + 1}, "thinking_token_budget", "invalid_value"),
        ({"thinking_token_budget": 1.5}, "thinking_token_budget", "invalid_type"),
        ({"thinking_token_budget": 5, "reasoning_effort": "none"}, "thinking_token_budget", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"service_tier": "priority"}, "service_tier", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "my schema", "schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f" * 65}}]},
            "tools[0].function.name",
            "string_above_max_length",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "nobody"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "debug": True}, "debug", "invalid_value"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "unsupported_parameter",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]},
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", "invalid_value"),
    ],
)
def test_what_the_server_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    assert refusal(**fields) == (400, param, code)


def test_the_token_limit_has_two_names() -> None:
    old, new = decode_chat(request(max_tokens=5)), decode_chat(request(max_completion_tokens=6))

    assert (old.token_limit, old.token_limit_param) == (5, "max_tokens")
    assert (new.token_limit, new.token_limit_param) == (6, "max_completion_tokens")


def test_messages_are_given_to_the_template_in_the_form_it_knows() -> None:
    chat = decode_chat(
        request(
            messages=[
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "name": "ann",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "found"},
                {"role": "assistant", "refusal": "no"},
            ]
        )
    )

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template_messages(chat.messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
        {"role": "assistant", "content": "no"},
    ]


def test_tools_are_shown_unless_the_client_wants_no_call() -> None:
    shown, hidden = decode_chat(request(tools=[TOOL])), decode_chat(request(tools=[TOOL], tool_choice="none"))

    assert template_tools(shown.tool_use.shown) == [TOOL]
    assert template_tools(hidden.tool_use.shown) == []


def test_stop_may_be_one_string_or_several() -> None:
    assert [decode_chat(request(stop=stop)).stops for stop in ("a", ["a", "b"], None)] == [("a",), ("a", "b"), ()]
