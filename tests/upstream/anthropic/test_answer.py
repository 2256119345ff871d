"""Anthropic's answers, read. Its own documentation has the recorded ones; our form of its API makes the others."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from servery.upstream.anthropic.answer import AnthropicStream, read_answer
from servery.upstream.failure import Kind, UpstreamFailure
from servery.wire.anthropic_answer import AnthropicForm
from servery.wire.errors import ApiError
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.usage import Usage

# https://platform.claude.com/docs/en/build-with-claude/streaming: a stream with thinking, text and a call.
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-opus-4-6",
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 25, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 70, "output_tokens": 1},
    }},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me "}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "see."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "EqQBCgIYAhIM"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Okay"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {
        "type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "get_weather", "input": {},
    }},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"location":'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' "Paris"}'}},
    {"type": "content_block_stop", "index": 2},
    {"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}},
    {"type": "content_block_stop", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {
        "output_tokens": 89, "output_tokens_details": {"thinking_tokens": 30},
    }},
    {"type": "message_stop"},
]  # fmt: skip


def wire(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def read(*events: dict[str, Any], **how: Any) -> tuple[list[MessageDelta], Usage]:
    stream = AnthropicStream("claude", **how)
    deltas = stream.feed(wire(*events))
    return deltas + stream.end(), stream.usage


def call(position: int, **fields: Any) -> MessageDelta:
    return MessageDelta(calls=(CallDelta(position=position, **fields),))


def test_a_recorded_stream_is_read() -> None:
    events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for event in EVENTS:
        if event["type"] != "ping":
            events.validate_python(event)

    assert read(*EVENTS) == (
        [
            MessageDelta(reasoning="Let me "),
            MessageDelta(reasoning="see."),
            MessageDelta(content="Okay"),
            call(0, id="toolu_01T1x1fJ34qAmk2tNTrN7Up6", name="get_weather"),
            call(0, arguments='{"location":'),
            call(0, arguments=' "Paris"}'),
            call(1, id="toolu_2", name="now"),
            call(1, arguments="{}"),
            MessageDelta(finish_reason="tool_calls"),
        ],
        Usage.of(100, 89, 70, 30),
    )


@given(st.lists(st.integers(1, 40), max_size=60), st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_may_come_in_pieces_of_any_size(sizes: list[int], line_end: bytes) -> None:
    data, stream = wire(*EVENTS).replace(b"\n", line_end), AnthropicStream("claude")
    deltas: list[MessageDelta] = []
    for size in sizes:
        deltas += stream.feed(data[:size])
        data = data[size:]
    deltas += stream.feed(data) + stream.end()

    assert (deltas, stream.usage) == read(*EVENTS)


def test_a_recorded_answer_is_read() -> None:
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-6",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
            {"type": "redacted_thinking", "data": "xx"},
            {"type": "text", "text": "Okay"},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"location": "Paris"}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": None, "output_tokens": 7},
    }  # fmt: skip
    AnthropicMessage.model_validate(body)

    assert read_answer(json.dumps(body).encode(), "claude") == (
        [
            Message(
                index=0,
                reasoning="Hm.",
                content="Okay",
                calls=[Call(id="toolu_1", name="get_weather", arguments='{"location":"Paris"}')],
                finish_reason="tool_calls",
            )
        ],
        Usage.of(10, 7, 0),
    )


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"), ("max_tokens", "length"), ("stop_sequence", "stop"), ("pause_turn", "stop"),
        ("refusal", "content_filter"), ("model_context_window_exceeded", "length"), ("something_new", "stop"),
    ],
)  # fmt: skip
def test_every_reason_to_stop_has_a_word(reason: str, told: str) -> None:
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": "END"},
        "usage": {"output_tokens": 3},
    }

    assert read(end, EVENTS[-1])[0] == [MessageDelta(finish_reason=told, stop="END")]


def test_arguments_that_hold_the_answer_are_its_text() -> None:
    block = {"type": "tool_use", "id": "t", "name": "give_answer", "input": {"a": 1}}
    body = {"type": "message", "content": [block], "stop_reason": "tool_use", "usage": {}}
    deltas, _ = read(*EVENTS[10:14], EVENTS[14], *EVENTS[17:], is_held_by_call=True)

    assert deltas == [
        MessageDelta(content='{"location":'),
        MessageDelta(content=' "Paris"}'),
        MessageDelta(finish_reason="stop"),
    ]
    [message], _ = read_answer(json.dumps(body).encode(), "claude", is_held_by_call=True)
    assert (message.content, message.calls, message.finish_reason) == ('{"a":1}', [], "stop")


def test_tools_of_anthropics_own_are_not_the_clients() -> None:
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    piece = {"type": "input_json_delta", "partial_json": '{"q"'}
    deltas, _ = read(
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": piece},
        {"type": "content_block_stop", "index": 0},
        EVENTS[-1],
    )

    assert deltas == []


def test_a_stream_without_its_end_is_cut() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read(*EVENTS[:-1])

    assert (caught.value.kind, str(caught.value)) == (
        Kind.CUT,
        "the answer of the deployment 'claude' ended before it was complete",
    )


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, Kind.OVERLOADED, 529),
        ({"type": "api_error", "message": "Internal server error"}, Kind.STATUS, 500),
        ({"type": "rate_limit_error", "message": "Slow down"}, Kind.THROTTLED, 429),
        ({"type": "new_error", "message": "?"}, Kind.STATUS, 500),
        ("nonsense", Kind.STATUS, 500),
    ],
)
def test_an_error_in_a_stream_is_a_failure(error: Any, kind: Kind, status: int) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read(EVENTS[0], {"type": "error", "error": error})

    assert (caught.value.kind, caught.value.status) == (kind, status)


def test_an_invalid_request_in_a_stream_is_the_clients_fault() -> None:
    with pytest.raises(ApiError) as caught:
        read({"type": "error", "error": {"type": "invalid_request_error", "message": "No."}})

    assert (caught.value.status, caught.value.message, caught.value.code) == (400, "No.", "invalid_request_error")


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"x" * (9 << 20)])
def test_what_is_no_event_is_malformed(data: bytes) -> None:
    with pytest.raises(UpstreamFailure, match="gave an event that cannot be read") as caught:
        AnthropicStream("claude").feed(data)

    assert caught.value.kind is Kind.MALFORMED


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type": "message"}'])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read_answer(body, "claude")

    assert caught.value.kind is Kind.MALFORMED


_CALLS = st.builds(
    lambda name, args: Call(id=f"toolu_{name}", name=name, arguments=msgspec.json.encode(args).decode()),
    st.sampled_from(["f", "g"]),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


@settings(max_examples=40)
@given(st.text(max_size=5), st.text(max_size=5), st.lists(_CALLS, max_size=3), st.booleans())
def test_what_our_own_form_of_the_api_writes_is_read_as_it_was(
    reasoning: str, content: str, calls: list[Call], is_stopped: bool
) -> None:
    message = Message(index=0, reasoning=reasoning, content=content, calls=calls)
    message.finish_reason = "tool_calls" if calls else "stop"
    message.stop = "END" if is_stopped and not calls else None
    usage = Usage.of(9, 5, 4)
    whole, usage_of_whole = read_answer(AnthropicForm("msg_1", "m", 99).body([message], usage), "claude")
    form = AnthropicForm("msg_1", "m", 99)
    deltas = [MessageDelta(reasoning=reasoning, content=content)]
    deltas += [call(at, id=each.id, name=each.name, arguments=each.arguments) for at, each in enumerate(calls)]
    deltas.append(MessageDelta(finish_reason=message.finish_reason, stop=message.stop))
    data = form.start(usage) + b"".join(map(form.delta, deltas)) + form.end(usage)

    stream, grown = AnthropicStream("claude"), Message(index=0)
    for delta in stream.feed(data) + stream.end():
        grown.add(delta)

    assert (whole, usage_of_whole) == ([message], usage)
    assert (grown, stream.usage) == (message, usage)
