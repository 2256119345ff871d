import json
from typing import Any

import pytest

from servery.wire import chat
from servery.wire.errors import ApiError
from servery.wire.responses import ResponsesChat, decode_responses
from servery.wire.responses_items import Item, MessageItem
from servery.wire.tools import Function, Tool


def asked(*history: Item, **fields: Any) -> chat.ChatRequest:
    return decode_responses(json.dumps({"model": "m", "input": "hello", **fields}).encode()).chat([*history])


TOOLS = {"tools": [{"type": "function", "name": name} for name in ("add", "sub")]}


def test_a_text_is_a_message_of_the_user() -> None:
    request = asked(instructions="be brief", max_output_tokens=9, temperature=0.5, stream=True, user="u")

    assert request == ResponsesChat(
        model="m",
        messages=[chat.SystemMessage(content="be brief"), chat.UserMessage(content="hello")],
        max_tokens=9,
        temperature=0.5,
        stream=True,
    )


@pytest.mark.parametrize(
    ("choice", "names", "is_forced"),
    [
        ("required", {"add", "sub"}, True),
        ({"type": "function", "name": "sub"}, {"sub"}, True),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}, {"add"}, False),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}, {"add"}, True),
    ],
)
def test_a_choice_is_about_functions(choice: Any, names: set[str], is_forced: bool) -> None:
    use = asked(**TOOLS, tool_choice=choice).tool_use
    assert (use.names, use.is_forced, use.is_kept_to, len(use.shown)) == (names, is_forced, True, 2)


def test_effort_is_the_chat_s() -> None:
    request = asked(reasoning={"effort": "low"})
    assert (request.reasoning_effort, request.effort_param) == ("low", "reasoning.effort")


def test_items_join_to_the_messages_that_they_are_of() -> None:
    request = asked(
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
            {"role": "user", "content": "add"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "I add.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "5"},
        ]
    )  # fmt: skip

    def call(call_id: str) -> chat.ToolCall:
        return chat.ToolCall(chat.ToolFunction("add", "{}"), call_id, "function")

    assert request.messages == [
        chat.SystemMessage(content=[chat.TextPart("rules")]),
        chat.UserMessage(content="add"),
        chat.AssistantMessage(
            content=[chat.TextPart("I add.")], reasoning_content="hm", tool_calls=[call("c1"), call("c2")]
        ),
        chat.ToolMessage(content="5", tool_call_id="c1"),
    ]


def test_a_conversation_goes_before_the_input_and_instructions_before_all() -> None:
    history = MessageItem(role="user", content="first")

    assert [message.content for message in asked(history, instructions="rules").messages] == ["rules", "first", "hello"]


def test_tools_are_functions() -> None:
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}, "description": "sums"}
    request = asked(tools=[tool], tool_choice="auto", parallel_tool_calls=False)

    assert request.tools == [Tool(Function("add", "sums", {"type": "object"}, None))]
    assert (request.tool_choice, request.parallel_tool_calls) == ("auto", False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]}]},
            "input[0].output[0]",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "tools[1].name"),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]},
            "tools[0].parameters.type",
        ),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"conversation": "c"}, "conversation"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({**TOOLS, "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({**TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({**TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}}, "tool_choice.mode"),
        (
            {**TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}},
            "tool_choice.tools[0].name",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        (
            {"instructions": "x", "input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
            "input[0].arguments",
        ),
        ({**TOOLS, "tool_choice": {"type": "function", "name": "nobody"}}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"generate_summary": "detailed"}}, "reasoning.generate_summary"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        asked(**fields)

    assert (caught.value.status, caught.value.param) == (400, param)
    assert f"'{param.removesuffix('.type')}" in str(caught.value)


def test_what_changes_nothing_is_accepted() -> None:
    same = {
        "background": False,
        "truncation": "disabled",
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
    }

    assert asked(**same).messages == asked().messages
