import json
from typing import Any

import pytest

from servery.wire import chat
from servery.wire.anthropic import AnthropicChat, decode_anthropic, decode_anthropic_count
from servery.wire.errors import ApiError
from servery.wire.tools import Function, Tool

HELLO = {"role": "user", "content": "hello"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": [HELLO], **fields}).encode()


def asked(**fields: Any) -> chat.ChatRequest:
    return decode_anthropic(body(**fields)).chat()


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asked(**fields)
    return caught.value


def test_a_request_becomes_a_chat() -> None:
    request = asked(
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"], temperature=0.5, top_k=3, top_p=0.9, stream=True, metadata={"user_id": "u"},
        service_tier="auto",
    )  # fmt: skip

    assert request == AnthropicChat(
        model="m",
        messages=[chat.SystemMessage(content=[chat.TextPart("be brief")]), chat.UserMessage(content=[chat.TextPart("hello")])],
        max_tokens=9, stop=["END"], temperature=0.5, top_k=3, top_p=0.9, stream=True,
    )  # fmt: skip


def test_tool_results_come_before_what_the_user_says_in_the_same_turn() -> None:
    request = asked(
        messages=[
            HELLO,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "text", "text": "and?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a tree"}]},
            ]},
        ]
    )  # fmt: skip

    assert request.messages[1:] == [
        chat.AssistantMessage(
            content="I look.",
            reasoning_content="hm",
            tool_calls=[chat.ToolCall(chat.ToolFunction("look", '{"at":1}'), "t1", "function")],
        ),
        chat.ToolMessage(content=[chat.TextPart("a tree")], tool_call_id="t1"),
        chat.UserMessage(content=[chat.TextPart("and?")]),
    ]


def test_instructions_may_change_after_a_turn_of_the_user() -> None:
    request = asked(messages=[HELLO, {"role": "system", "content": "be brief"}])

    assert request.messages[1] == chat.SystemMessage(content=[chat.TextPart("be brief")])


def test_a_last_turn_of_the_assistant_is_continued() -> None:
    request = asked(messages=[HELLO, {"role": "assistant", "content": "The answer is"}])

    assert request.continue_final_message
    assert request.messages[-1] == chat.AssistantMessage(content="The answer is")


def test_tools_are_functions() -> None:
    schema = {"type": "object", "properties": {"at": {"type": "integer"}}}
    request = asked(
        tools=[{"name": "look", "description": "see", "input_schema": schema}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )

    assert request.tools == [Tool(Function("look", "see", schema, None))]
    assert (request.tool_choice, request.parallel_tool_calls) == ("auto", False)
    assert asked(tools=[{"name": "look", "input_schema": schema}], tool_choice={"type": "none"}).tool_use.shown == ()


def test_thinking_is_switched_where_the_template_can() -> None:
    on = asked(thinking={"type": "enabled", "budget_tokens": 2048}, max_tokens=2049)
    off = asked(thinking={"type": "disabled"})
    assert (on.chat_template_kwargs, on.thinking_token_budget) == ({"enable_thinking": True, "thinking": True}, 2048)
    assert (off.chat_template_kwargs, off.thinking_token_budget) == (
        {"enable_thinking": False, "thinking": False},
        None,
    )
    assert asked().chat_template_kwargs is None
    assert not on.insists_on_reasoning


def test_effort_goes_with_thinking() -> None:
    request = asked(thinking={"type": "adaptive"}, output_config={"effort": "high"})
    assert (request.reasoning_effort, request.effort_param) == ("high", "output_config.effort")


def test_a_tool_may_be_forced() -> None:
    tools = [{"name": "look", "input_schema": {}}, {"name": "go", "input_schema": {}}]
    any_, named = (
        asked(tools=tools, tool_choice=choice).tool_use for choice in ({"type": "any"}, {"type": "tool", "name": "go"})
    )
    assert (any_.names, any_.is_forced, any_.is_single) == ({"look", "go"}, True, False)
    assert (named.names, named.is_forced, named.is_single) == ({"go"}, True, True)


def test_a_count_needs_no_length() -> None:
    request = decode_anthropic_count(json.dumps({"model": "m", "messages": [HELLO], "system": "s"}).encode()).chat()

    assert [type(message) for message in request.messages] == [chat.SystemMessage, chat.UserMessage]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages[0].content[0]"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "messages[0].content[0].source.type",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}
                ]
            },
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
        ({"tools": [{"name": "f", "input_schema": {}}] * 2}, "tools[1].name"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f" * 129, "input_schema": {}}]}, "tools[0].name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"output_config": {"effort": "much"}}, "output_config.effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 2048}, "max_tokens"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice"),
        (
            {"system": "s", "messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "continue_final_message",
        ),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"messages": [{"role": "system", "content": "be brief"}, HELLO]}, "messages[0].role"),
        (
            {"messages": [HELLO, {"role": "assistant", "content": "x"}, {"role": "system", "content": "y"}]},
            "messages[2].role",
        ),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"stop_sequences": "END"}, "stop_sequences"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)

    assert (error.status, error.param) == (400, param)


def test_a_request_without_a_length_is_told_so() -> None:
    with pytest.raises(ApiError, match="Missing required parameter: 'max_tokens'"):
        decode_anthropic(json.dumps({"model": "m", "messages": [HELLO]}).encode())


@pytest.mark.parametrize(
    ("block", "sent"),
    [
        ({"type": "thinking", "thinking": "hm", "signature": ""}, chat.AssistantMessage(reasoning_content="hm")),
        ({"type": "redacted_thinking", "data": "x"}, chat.AssistantMessage(content="")),
    ],
)
def test_a_turn_that_only_thought_can_be_sent_back(block: dict[str, Any], sent: chat.AssistantMessage) -> None:
    request = asked(messages=[HELLO, {"role": "assistant", "content": [block]}, HELLO])
    assert request.messages[1] == sent
