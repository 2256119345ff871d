import json
from typing import Any

import pytest

from servery.wire.anthropic_answer import ANTHROPIC, AnthropicForm
from servery.wire.errors import context_length_exceeded, invalid, rate_limited, unavailable
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.usage import Usage

USAGE = Usage.of(7, 3, 4)
USAGE_JSON = {"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 3}
HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}


def events(data: bytes) -> list[dict[str, Any]]:
    found = []
    for part in data.decode().split("\n\n")[:-1]:
        first, second = part.splitlines()
        value = json.loads(second.removeprefix("data: "))
        assert first == f"event: {value['type']}"
        found.append(value)
    return found


def test_an_answer_is_made_of_blocks() -> None:
    message = Message(
        index=0, reasoning="hm", content="I look.", calls=[Call(id="c", name="look", arguments='{"at":1}')],
        finish_reason="tool_calls",
    )  # fmt: skip

    assert json.loads(AnthropicForm("msg_1", "m", 9).body([message], USAGE)) == {
        **HEAD,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE_JSON,
    }


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("content_filter", None, "refusal"),
    ],
)
def test_the_reason_is_told_in_the_api_s_words(reason: str, stop: str | None, expected: str) -> None:
    assert reasons(reason, stop, max_tokens=3) == [(expected, stop)] * 2


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1, 2]", '"Paris"', "[" * 5000])
def test_a_call_whose_arguments_are_no_object_has_their_text(arguments: str) -> None:
    message = Message(index=0, calls=[Call(id="c", name="look", arguments=arguments)], finish_reason="tool_calls")
    (block,) = json.loads(AnthropicForm("msg_1", "m", 9).body([message], USAGE))["content"]
    assert block["input"] == {"__incomplete__": arguments}


def test_an_answer_that_ends_before_its_limit_was_ended_by_the_context() -> None:
    assert reasons("length", None, max_tokens=4) == [("model_context_window_exceeded", None)] * 2


def reasons(reason: str, stop: str | None, max_tokens: int) -> list[tuple[str, str | None]]:
    """What is told of the end, whole and streamed."""
    form = AnthropicForm("m", "m", max_tokens)
    whole = json.loads(form.body([Message(index=0, finish_reason=reason, stop=stop)], USAGE))
    form.delta(MessageDelta(finish_reason=reason, stop=stop))
    told = events(form.end(USAGE))[0]["delta"]
    return [(each["stop_reason"], each["stop_sequence"]) for each in (whole, told)]


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_agents_look_for() -> None:
    error = json.loads(ANTHROPIC.error(context_length_exceeded(100, 103, None, "messages"), "r"))["error"]
    assert error["message"] == (
        "prompt is too long: 103 tokens > 99 maximum. This model's maximum context length is 100 tokens. However, your "
        "messages resulted in 103 tokens. Please reduce the length of the messages."
    )


def test_a_stream_opens_and_closes_blocks_in_order() -> None:
    form = AnthropicForm("msg_1", "m", 9)
    deltas = [
        MessageDelta(reasoning="h"),
        MessageDelta(reasoning="m"),
        MessageDelta(content="I look."),
        MessageDelta(calls=(CallDelta(position=0, id="c", name="look"),)),
        MessageDelta(calls=(CallDelta(position=0, arguments="{}"),)),
        MessageDelta(calls=(CallDelta(position=1, id="d", name="look", arguments="{}"),)),
        MessageDelta(finish_reason="tool_calls"),
    ]
    start = Usage.of(7, 0, 4)
    told = events(form.start(start) + b"".join(map(form.delta, deltas)) + form.end(USAGE))

    message = {**HEAD, "content": [], "stop_reason": None, "stop_sequence": None}
    assert told[0] == {"type": "message_start", "message": {**message, "usage": {**USAGE_JSON, "output_tokens": 0}}}
    assert [(event["type"], event.get("index"), event.get("delta") or event.get("content_block")) for event in told[1:-2]] == [
        ("content_block_start", 0, {"type": "thinking", "thinking": "", "signature": ""}),
        ("content_block_delta", 0, {"type": "thinking_delta", "thinking": "h"}),
        ("content_block_delta", 0, {"type": "thinking_delta", "thinking": "m"}),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, {"type": "text", "text": ""}),
        ("content_block_delta", 1, {"type": "text_delta", "text": "I look."}),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, {"type": "tool_use", "id": "c", "name": "look", "input": {}}),
        ("content_block_delta", 2, {"type": "input_json_delta", "partial_json": "{}"}),
        ("content_block_stop", 2, None),
        ("content_block_start", 3, {"type": "tool_use", "id": "d", "name": "look", "input": {}}),
        ("content_block_delta", 3, {"type": "input_json_delta", "partial_json": "{}"}),
        ("content_block_stop", 3, None),
    ]  # fmt: skip
    ended = {"stop_reason": "tool_use", "stop_sequence": None}
    assert told[-2:] == [{"type": "message_delta", "delta": ended, "usage": USAGE_JSON}, {"type": "message_stop"}]


def test_errors_have_the_api_s_kinds() -> None:
    kinds = {
        json.loads(ANTHROPIC.error(error, "req_1"))["error"]["type"]
        for error in (invalid("no"), rate_limited("wait", 1.0), unavailable("later", 1.0))
    }

    assert kinds == {"invalid_request_error", "rate_limit_error", "overloaded_error"}
    assert events(ANTHROPIC.error_event(invalid("no"), "req_1")) == [
        {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}, "request_id": "req_1"}
    ]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("response_format.json_schema.schema", "output_config.format.schema"),
        ("stop", "stop_sequences"),
        ("continue_final_message", "messages"),
        ("temperature", "temperature"),
    ],
)
def test_an_error_names_what_the_client_gave(ours: str, theirs: str) -> None:
    body = json.loads(ANTHROPIC.error(invalid(f"'{ours}' is wrong.", ours), "r"))
    assert body["error"]["message"] == f"'{theirs}' is wrong."
