"""What each API says when a model, or a filter behind it, declines to answer."""

import json
from typing import Any

import pytest

from servery.upstream.anthropic.answer import AnthropicStream
from servery.upstream.anthropic.answer import read_answer as read_anthropic
from servery.upstream.ask import Api
from servery.upstream.openai.answer import OpenAIStream, read_answer
from servery.upstream.relay.body import RelayedBody
from servery.upstream.relay.stream import RelayedStream, Watch
from servery.upstream.relay.watches import ChatWatch, MessagesWatch, ResponsesWatch
from servery.upstream.translated import TranslatedBody, TranslatedStream
from servery.upstream.upstream import Chunk
from servery.wire.chat_answer import ChatForm


def chat(message: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}


def responses(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "x", "model": "m", "status": "completed", "output": list(items), **fields}


def item(kind: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": kind, kind: "Sorry"}]}


MESSAGE: dict[str, Any] = {"type": "message", "id": "x", "usage": {"input_tokens": 3, "output_tokens": 1}}
TEXT = [{"type": "text", "text": "Yes."}]
WHOLE: list[tuple[Api, dict[str, Any], bool]] = [
    (Api.CHAT, chat({"content": None, "refusal": "I cannot."}, "stop"), True),
    (Api.CHAT, chat({"content": None}, "content_filter"), True),
    (Api.CHAT, chat({"content": ""}, "content_filter"), True),
    (Api.CHAT, chat({"content": "Yes, b"}, "content_filter"), False),
    (Api.CHAT, chat({"content": "Yes.", "refusal": None}, "stop"), False),
    (Api.CHAT, chat({"content": None, "tool_calls": [{"id": "a", "function": {"name": "f"}}]}, "tool_calls"), False),
    (Api.COMPLETIONS, {"choices": [{"index": 0, "text": "", "finish_reason": "content_filter"}]}, True),
    (Api.COMPLETIONS, {"choices": [{"index": 0, "text": "Yes", "finish_reason": "content_filter"}]}, False),
    (Api.MESSAGES, {**MESSAGE, "content": [], "stop_reason": "refusal"}, True),
    (Api.MESSAGES, {**MESSAGE, "content": TEXT, "stop_reason": "end_turn"}, False),
    (Api.RESPONSES, responses(item("refusal")), True),
    (Api.RESPONSES, responses(status="incomplete", incomplete_details={"reason": "content_filter"}), True),
    (Api.RESPONSES, responses(item("output_text")), False),
    (Api.RESPONSES, responses({"type": "function_call"}), False),
]


@pytest.mark.parametrize(("api", "body", "is_refusal"), WHOLE)
def test_a_whole_answer_that_is_passed_on(api: Api, body: dict[str, Any], is_refusal: bool) -> None:
    reader = RelayedBody("d", api, "m")
    reader.feed(json.dumps(body).encode())
    assert [chunk.is_refusal for chunk in reader.end()][-1] is is_refusal


@pytest.mark.parametrize(("api", "body", "is_refusal"), [case for case in WHOLE if case[0] in (Api.CHAT, Api.MESSAGES)])
def test_a_whole_answer_that_is_translated(api: Api, body: dict[str, Any], is_refusal: bool) -> None:
    form = ChatForm("x", 1, "m", include_usage=False, shows_reasoning=True)
    reader = TranslatedBody(form, lambda data: (read_answer if api is Api.CHAT else read_anthropic)(data, "d"))
    reader.feed(json.dumps(body).encode())
    assert [chunk.is_refusal for chunk in reader.end()][-1] is is_refusal


def piece(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()


def event(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **fields}).encode())


ROLE = piece({"role": "assistant", "content": ""})
BEGIN = event("message_start", message={"id": "x", "usage": {"input_tokens": 3}})
STREAMS: list[tuple[str, list[bytes], bool]] = [
    ("chat", [ROLE, piece({"refusal": "I can"}), piece({"refusal": "not."}), piece({}, "stop")], True),
    ("chat", [ROLE, piece({}, "content_filter")], True),
    ("chat", [ROLE, piece({"content": "Yes"}), piece({}, "content_filter")], False),
    ("chat", [ROLE, piece({"content": "Yes", "refusal": None}), piece({}, "stop")], False),
    ("messages", [BEGIN, event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 1})], True),
    ("responses", [event("response.refusal.delta", delta="I cannot.")], True),
    ("responses", [event("response.output_text.delta", delta="Yes")], False),
]  # fmt: skip


def declined(chunks: list[Chunk]) -> bool:
    """Whether the first that says something declines."""
    for chunk in chunks:
        if chunk.is_refusal or (chunk.finish_reason == "content_filter" and not chunk.tokens):
            return True
        if chunk.tokens:
            return False
    return False


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("api", "events", "is_refusal"), STREAMS)
def test_a_stream_that_is_passed_on(api: str, events: list[bytes], is_refusal: bool, at_once: bool) -> None:
    watches: dict[str, Watch] = {
        "chat": ChatWatch("d", 1, hides_usage=False), "messages": MessagesWatch("d"), "responses": ResponsesWatch("d"),
    }  # fmt: skip
    stream = RelayedStream("d", watches[api], "m")
    pieces = [b"".join(events)] if at_once else events
    assert declined([chunk for each in pieces for chunk in stream.feed(each)]) is is_refusal


@pytest.mark.parametrize(("api", "events", "is_refusal"), [case for case in STREAMS if case[0] != "responses"])
def test_a_stream_that_is_translated(api: str, events: list[bytes], is_refusal: bool) -> None:
    form = ChatForm("x", 1, "m", include_usage=False, shows_reasoning=True)
    stream = TranslatedStream(form, OpenAIStream("d") if api == "chat" else AnthropicStream("d"))
    assert declined([chunk for each in events for chunk in stream.feed(each)]) is is_refusal
