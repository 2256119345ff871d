"""What OpenAI-compatible servers are sent when the client speaks another API. OpenAI's own types judge what is theirs."""

import json
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParams
from pydantic import TypeAdapter

from servery.config.types import Kind
from servery.upstream.failure import UpstreamFailure
from servery.upstream.openai.preset import PRESETS
from servery.upstream.openai.request import chat_request
from servery.wire.anthropic import decode_anthropic
from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.responses import decode_responses

HI = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,aGk="
_ORACLE: TypeAdapter[Any] = TypeAdapter(CompletionCreateParams)
AGENT = {
    "model": "m",
    "max_tokens": 9_000,
    "system": "be brief",
    "thinking": {"type": "enabled", "budget_tokens": 2_000},
    "stream": True,
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "any"},
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sky"}]},
    ],
}  # fmt: skip


def chat(**fields: Any) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": [HI], **fields}).encode())


def sent(request: ChatRequest, kind: Kind = Kind.OPENAI) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(chat_request(request, "theirs", PRESETS[kind]))
    _ORACLE.validate_python(made)
    return made


def test_an_agents_messages_become_a_chat_for_openai() -> None:
    assert sent(decode_anthropic(json.dumps(AGENT).encode()).chat()) == {
        "model": "theirs",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            {"role": "assistant", "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
            ]},
            {"role": "tool", "content": "sky", "tool_call_id": "toolu_1"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "max_completion_tokens": 9_000,
    }  # fmt: skip


def test_a_server_of_ones_own_is_told_more() -> None:
    made = sent(decode_anthropic(json.dumps(AGENT).encode()).chat(), Kind.VLLM)

    assert made["max_tokens"] == 9_000
    assert made["chat_template_kwargs"] == {"enable_thinking": True, "thinking": True}
    assert made["thinking_token_budget"] == 2_000
    assert made["messages"][2]["reasoning_content"] == "hm"


def test_a_responses_request_becomes_a_chat() -> None:
    body = {
        "model": "m", "input": "hi", "instructions": "be brief", "max_output_tokens": 7, "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    }  # fmt: skip

    made = sent(decode_responses(json.dumps(body).encode()).chat([]))

    assert (made["max_completion_tokens"], made["reasoning_effort"]) == (7, "low")
    assert made["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert [message["role"] for message in made["messages"]] == ["system", "user"]


def test_developers_are_the_system_where_they_are_not_known() -> None:
    request = chat(messages=[{"role": "developer", "content": "be brief"}, HI])

    assert sent(request)["messages"][0]["role"] == "developer"
    assert sent(request, Kind.LLAMA_CPP)["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.VLLM, {"continue_final_message": True, "add_generation_prompt": False}),
        (Kind.SGLANG, {"continue_final_message": True, "add_generation_prompt": False}),
        (Kind.LLAMA_CPP, {}),
        (Kind.OLLAMA, {}),
    ],
)
def test_an_answer_is_gone_on_with_as_the_server_does_it(kind: Kind, fields: dict[str, Any]) -> None:
    request = chat(messages=[HI, {"role": "assistant", "content": "I am"}], continue_final_message=True)
    made = json.loads(chat_request(request, "theirs", PRESETS[kind]))

    assert made == {"model": "theirs", "messages": [HI, {"role": "assistant", "content": "I am"}], **fields}


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (Kind.OPENAI, {"top_k": 5}, "top_k"),
        (Kind.TGI, {"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        (Kind.OPENAI, {"thinking_token_budget": 5}, "thinking_token_budget"),
        (
            Kind.OPENAI,
            {"messages": [HI, {"role": "assistant", "content": "I"}], "continue_final_message": True},
            "messages",
        ),
    ],
)
def test_what_a_server_does_not_know_may_be_asked_elsewhere(kind: Kind, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        chat_request(chat(**fields), "theirs", PRESETS[kind])

    assert (caught.value.error.status, caught.value.error.param, caught.value.may_go_elsewhere) == (400, param, True)


def test_what_means_nothing_is_left_out() -> None:
    assert sent(chat(top_k=-1, min_p=0, repetition_penalty=1, debug=False)) == sent(chat())


@pytest.mark.parametrize(
    "form", [{"type": "json", "value": {"type": "object"}}, {"type": "json_object", "value": '{"type":"object"}'}]
)
def test_a_schema_in_tgi_s_form_is_written_in_openai_s(form: dict[str, Any]) -> None:
    made = json.loads(chat_request(chat(response_format=form), "theirs", PRESETS[Kind.OPENAI]))
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert made["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_a_regular_expression_in_tgi_s_form_has_no_words_elsewhere() -> None:
    with pytest.raises(UpstreamFailure, match="response_format"):
        chat_request(chat(response_format={"type": "regex", "value": "a"}), "theirs", PRESETS[Kind.OPENAI])
