"""Bedrock's answers, read. AWS's own client reads the same bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.upstream.bedrock.answer import ConverseStream, read_answer
from servery.upstream.bedrock.errors import refused
from servery.upstream.failure import Kind, UpstreamFailure, is_context_window
from servery.wire.errors import ApiError
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.usage import Usage
from tests.upstream.bedrock.aws import Aws
from tests.upstream.bedrock.frames import event, exception, frame

USAGE = {
    "inputTokens": 25,
    "outputTokens": 9,
    "totalTokens": 109,
    "cacheReadInputTokens": 70,
    "cacheWriteInputTokens": 5,
}
# As in https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-call.html, with reasoning and a call.
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Let me see."}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "EqQB"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Okay"}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "tooluse_1", "name": "look"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"at":'}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ' "sky"}'}}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "tooluse_2", "name": "now"}}}),
    ("contentBlockStop", {"contentBlockIndex": 3}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": USAGE, "metrics": {"latencyMs": 12}}),
]


def wire(events: list[tuple[str, dict[str, Any]]]) -> bytes:
    return b"".join(event(name, **fields) for name, fields in events)


def read(data: bytes, **how: Any) -> tuple[list[MessageDelta], Usage]:
    stream = ConverseStream("nova", **how)
    deltas = stream.feed(data)
    return deltas + stream.end(), stream.usage


def call(position: int, **fields: Any) -> MessageDelta:
    return MessageDelta(calls=(CallDelta(position=position, **fields),))


def test_a_stream_is_read_and_aws_finds_the_same_events_in_it() -> None:
    aws = Aws()
    aws.answer = wire(EVENTS)
    theirs = aws.converse("m", {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}, is_stream=True)

    assert list(theirs["stream"]) == [{name: fields} for name, fields in EVENTS]
    assert read(wire(EVENTS)) == (
        [
            MessageDelta(reasoning="Let me see."),
            MessageDelta(content="Okay"),
            call(0, id="tooluse_1", name="look"),
            call(0, arguments='{"at":'),
            call(0, arguments=' "sky"}'),
            call(1, id="tooluse_2", name="now"),
            call(1, arguments="{}"),
            MessageDelta(finish_reason="tool_calls"),
        ],
        Usage.of(100, 9, 70),
    )


@given(st.lists(st.integers(1, 99), max_size=50))
def test_a_stream_may_come_in_pieces_of_any_size(sizes: list[int]) -> None:
    data, stream = wire(EVENTS), ConverseStream("nova")
    deltas: list[MessageDelta] = []
    for size in (*sizes, len(data)):
        deltas += stream.feed(data[:size])
        data = data[size:]

    assert (deltas + stream.end(), stream.usage) == read(wire(EVENTS))


def test_a_whole_answer_is_read() -> None:
    content = [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
        {"text": "Okay"},
        {"toolUse": {"toolUseId": "tooluse_1", "name": "look", "input": {"at": "sky"}}},
    ]
    body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "tool_use", "usage": USAGE}
    found = read_answer(json.dumps({**body, "metrics": {"latencyMs": 3}}).encode(), "nova")

    called = Call(id="tooluse_1", name="look", arguments='{"at":"sky"}')
    message = Message(index=0, reasoning="Hm.", content="Okay", calls=[called], finish_reason="tool_calls")
    assert found == ([message], Usage.of(100, 9, 70))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("content_filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"), ("model_context_window_exceeded", "length"), ("news", "stop"),
    ],
)  # fmt: skip
def test_every_reason_to_stop_has_a_word(reason: str, told: str) -> None:
    end = event("messageStop", stopReason=reason, additionalModelResponseFields={"stop_sequence": "END"})

    assert read(end)[0] == [MessageDelta(finish_reason=told, stop="END")]


def test_arguments_that_hold_the_answer_are_its_text() -> None:
    deltas, _ = read(wire([*EVENTS[6:10], *EVENTS[12:]]), is_held_by_call=True)
    body = {"output": {"message": {"content": [{"toolUse": {"input": {"a": 1}}}]}}, "stopReason": "tool_use"}
    [message], _ = read_answer(json.dumps(body).encode(), "nova", is_held_by_call=True)

    assert deltas == [
        MessageDelta(content='{"at":'),
        MessageDelta(content=' "sky"}'),
        MessageDelta(finish_reason="stop"),
    ]
    assert (message.content, message.calls, message.finish_reason) == ('{"a":1}', [], "stop")


@pytest.mark.parametrize("data", [wire(EVENTS[:12]), wire(EVENTS) + event("x")[:20]])
def test_a_stream_without_its_end_is_cut(data: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read(data)

    assert caught.value.kind is Kind.CUT


@pytest.mark.parametrize(
    "data", [b"<html><body>", frame(b"{", event_type="metadata", message_type="event"), wire(EVENTS)[:-1] + b"x"]
)
def test_what_is_no_frame_is_malformed(data: bytes) -> None:
    with pytest.raises(UpstreamFailure, match="a frame that cannot be read") as caught:
        read(data)

    assert caught.value.kind is Kind.MALFORMED


def test_a_model_that_writes_nonsense_has_failed() -> None:
    with pytest.raises(UpstreamFailure, match="malformed_tool_use") as caught:
        read(event("messageStop", stopReason="malformed_tool_use"))

    assert caught.value.kind is Kind.MALFORMED


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (exception("throttlingException", "slow"), Kind.THROTTLED, 429),
        (exception("modelStreamErrorException", "oops"), Kind.STATUS, 500),
        (exception("serviceUnavailableException", "later"), Kind.STATUS, 503),
        (frame(b"", message_type="error", error_code="InternalError", error_message="oops"), Kind.STATUS, 500),
    ],
)
def test_an_exception_in_a_stream_is_a_failure(data: bytes, kind: Kind, status: int) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read(wire(EVENTS[:2]) + data)

    assert (caught.value.kind, caught.value.status) == (kind, status)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}"])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read_answer(body, "nova")

    assert caught.value.kind is Kind.MALFORMED


def error(status: int, name: str, message: str) -> ApiError | UpstreamFailure:
    headers = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return refused(status, headers, json.dumps({"message": message}).encode(), "nova")


@pytest.mark.parametrize("key", ["message", "Message"])
def test_a_request_that_is_wrong_is_told_in_bedrocks_words(key: str) -> None:
    found = refused(400, {"x-amzn-errortype": "ValidationException"}, json.dumps({key: "No."}).encode(), "nova")

    assert isinstance(found, ApiError)
    assert (found.status, found.code, found.message) == (400, "ValidationException", "No.")


def test_a_prompt_that_is_too_long_is_known_as_such() -> None:
    found = error(400, "ValidationException", "Input is too long for requested model.")

    assert isinstance(found, ApiError)
    assert (found.code, is_context_window(found)) == ("context_length_exceeded", True)


@pytest.mark.parametrize(
    ("status", "name", "kind", "seen", "told"),
    [
        (403, "AccessDeniedException", Kind.STATUS, 403, 502),
        (404, "ResourceNotFoundException", Kind.STATUS, 404, 502),
        (408, "ModelTimeoutException", Kind.STATUS, 504, 504),
        (424, "ModelErrorException", Kind.STATUS, 500, 500),
        (429, "ThrottlingException", Kind.THROTTLED, 429, 429),
        (429, "ModelNotReadyException", Kind.THROTTLED, 429, 429),
        (503, "ServiceUnavailableException", Kind.STATUS, 503, 503),
    ],
)
def test_what_is_no_fault_of_the_client_may_be_mended_elsewhere(
    status: int, name: str, kind: Kind, seen: int, told: int
) -> None:
    found = error(status, name, "no")

    assert isinstance(found, UpstreamFailure)
    assert (found.kind, found.status, found.error.status) == (kind, seen, told)
