"""Answers of OpenAI-compatible servers, read as messages. OpenAI's own types judge the recorded ones."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.openai.answer import OpenAIStream, read_answer
from servery.wire.chat_answer import ChatForm
from servery.wire.errors import ApiError
from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob, TopLogprob
from servery.wire.usage import Usage

USAGE = {
    "prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **fields: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish, **fields}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def called(
    index: int | None, name: str | None = None, arguments: str | None = None, call_id: str | None = None
) -> dict[str, Any]:
    piece = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return chunk({"tool_calls": [{key: value for key, value in piece.items() if value is not None}]})


def wire(*events: Any) -> bytes:
    return b"".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode() for event in events)


def read(*events: Any, n: int = 1) -> tuple[list[MessageDelta], Usage]:
    stream = OpenAIStream("gpt", n)
    deltas = stream.feed(wire(*events))
    return deltas + stream.end(), stream.usage


def call(position: int, **fields: Any) -> MessageDelta:
    return MessageDelta(calls=(CallDelta(position=position, **fields),))


def test_a_stream_with_everything_is_read() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}]}]}  # fmt: skip
    events = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning": "hm"}),
        chunk({"content": "a"}, logprobs=logprobs),
        called(0, "look", "", "call_1"),
        called(0, None, '{"at":'),
        called(0, None, " 1}"),
        called(1, "now", "", "call_2"),
        chunk(finish="tool_calls"),
        {**chunk(), "choices": [], "usage": USAGE},
    ]
    for event in events:
        ChatCompletionChunk.model_validate(event)

    assert read(*events, "[DONE]") == (
        [
            MessageDelta(reasoning="hm"),
            MessageDelta(reasoning="hm"),
            MessageDelta(content="a", logprobs=[TokenLogprob("a", -0.5, [], [TopLogprob("b", -1.0, [98])])]),
            call(0, id="call_1", name="look"),
            call(0, arguments='{"at":'),
            call(0, arguments=" 1}"),
            call(1, id="call_2", name="now"),
            call(1, arguments="{}"),
            MessageDelta(finish_reason="tool_calls"),
        ],
        Usage.of(9, 5, 4, 2),
    )


@pytest.mark.parametrize("indexes", [(0, 0), (None, None), (0, 1)])
def test_calls_that_come_whole_are_kept_apart(indexes: tuple[int | None, int | None]) -> None:
    """Ollama numbers all calls 0, Gemini's own compatible server none."""
    first, second = indexes
    deltas, _ = read(called(first, "f", "{}", "a"), called(second, "g", '{"x":1}', "b"), chunk(finish="stop"))

    assert deltas == [
        call(0, id="a", name="f", arguments="{}"),
        call(1, id="b", name="g", arguments='{"x":1}'),
        MessageDelta(finish_reason="tool_calls"),
    ]


def test_choices_end_each_on_their_own() -> None:
    deltas, _ = read(chunk({"content": "a"}), chunk({"content": "b"}, "length", 1), chunk({}, "stop"), n=2)

    assert deltas == [
        MessageDelta(content="a"),
        MessageDelta(index=1, content="b"),
        MessageDelta(index=1, finish_reason="length"),
        MessageDelta(finish_reason="stop"),
    ]


@pytest.mark.parametrize(
    ("finish", "told", "stop"),
    [("stop", "stop", "END"), ("length", "length", None), ("content_filter", "content_filter", None),
     ("eos_token", "stop", "END"), ("function_call", "tool_calls", None)],
)  # fmt: skip
def test_every_reason_to_stop_has_a_word(finish: str, told: str, stop: str | None) -> None:
    assert read(chunk({}, finish, stop_reason="END"))[0] == [MessageDelta(finish_reason=told, stop=stop)]


@pytest.mark.parametrize("events", [[], [chunk({"content": "a"})], [chunk({}, "stop")]])
def test_a_stream_without_its_end_is_cut(events: list[Any]) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read(*events, n=2)

    assert caught.value.kind is Kind.CUT


def test_an_error_event_is_raised() -> None:
    with pytest.raises(UpstreamFailure, match="answered 500: boom"):
        read(chunk({"content": "a"}), {"error": {"message": "boom", "type": "InternalServerError", "code": 500}})
    with pytest.raises(ApiError, match="too long"):
        read({"error": {"message": "too long", "type": "BadRequestError", "code": 400}})


@pytest.mark.parametrize("data", ["<html>", "{", "[]", '{"choices": 5}'])
def test_what_is_no_event_is_malformed(data: str) -> None:
    with pytest.raises(UpstreamFailure, match="gave an event that cannot be read") as caught:
        read(data)

    assert caught.value.kind is Kind.MALFORMED


def test_a_whole_answer_is_read() -> None:
    said = {
        "role": "assistant", "content": "a", "reasoning_content": "hm",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}],
    }  # fmt: skip
    body = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
        "choices": [{"index": 0, "message": said, "finish_reason": "stop", "logprobs": None}],
    }  # fmt: skip
    ChatCompletion.model_validate(body)

    assert read_answer(json.dumps(body).encode(), "gpt") == (
        [Message(index=0, reasoning="hm", content="a", calls=[Call(id="c", name="f", arguments="{}")], finish_reason="tool_calls")],
        Usage.of(9, 5, 4, 2),
    )  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}'])
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        read_answer(body, "gpt")

    assert caught.value.kind is Kind.MALFORMED


_CALLS = st.builds(
    lambda name, args: Call(id=f"call_{name}", name=name, arguments=msgspec.json.encode(args).decode()),
    st.sampled_from(["f", "g"]),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


@settings(max_examples=40)
@given(
    st.text(max_size=5),
    st.text(max_size=5),
    st.lists(_CALLS, max_size=2, unique_by=lambda each: each.name),
    st.lists(st.integers(1, 30), max_size=30),
)
def test_what_our_own_form_of_the_api_writes_is_read_as_it_was(
    reasoning: str, content: str, calls: list[Call], sizes: list[int]
) -> None:
    message = Message(index=0, reasoning=reasoning, content=content, calls=calls)
    message.finish_reason = "tool_calls" if calls else "stop"
    usage = Usage.of(9, 5, 4, 1)
    form = ChatForm("c", 1, "m", include_usage=True)
    deltas = [MessageDelta(reasoning=reasoning, content=content)]
    deltas += [call(at, id=each.id, name=each.name, arguments=each.arguments) for at, each in enumerate(calls)]
    deltas.append(MessageDelta(finish_reason=message.finish_reason))
    data = b"".join(map(form.delta, deltas)) + form.end(usage)
    stream, grown = OpenAIStream("gpt"), Message(index=0)
    for size in (*sizes, len(data)):
        for delta in stream.feed(data[:size]):
            grown.add(delta)
        data = data[size:]

    assert (stream.end(), grown, stream.usage) == ([], message, usage)
    assert read_answer(form.body([message], usage), "gpt") == ([message], usage)
