"""What an answer says is read alike from every API, whole or streamed, and from the beginning of one."""

import json
from typing import Any

import pytest

from benchmarks.chaos.reading import Told, read

WHOLE: dict[str, Any] = {
    "chat": {
        "choices": [{"message": {"content": "Salt."}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    },
    "completions": {"choices": [{"text": "Salt."}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    "messages": {
        "content": [{"type": "text", "text": "Salt."}],
        "usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 2},
    },
    "responses": {
        "output": [{"type": "message", "content": [{"text": "Salt."}]}],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
}
STREAMED: dict[str, list[Any]] = {
    "chat": [
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "Sa"}}]},
        {"choices": [{"delta": {"content": "lt."}}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ],
    "completions": [
        {"choices": [{"text": "Sa"}]},
        {"choices": [{"text": "lt."}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ],
    "messages": [
        {"type": "content_block_delta", "delta": {"text": "Sa"}},
        {"type": "content_block_delta", "delta": {"text": "lt."}},
        {"type": "message_delta", "usage": {"input_tokens": 3, "output_tokens": 2}},
        {"type": "message_stop"},
    ],
    "responses": [
        {"type": "response.output_text.delta", "delta": "Sa"},
        {"type": "response.output_text.delta", "delta": "lt."},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 2}}},
    ],
}


def stream(api: str) -> bytes:
    data = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in STREAMED[api])
    return data + (b"data: [DONE]\n\n" if api in ("chat", "completions") else b"")


@pytest.mark.parametrize("api", WHOLE)
def test_both_forms_say_the_same(api: str) -> None:
    told = Told("Salt.", is_ended=True, usage=(3, 2))
    assert read(api, json.dumps(WHOLE[api]).encode(), is_stream=False, status=200) == told
    assert read(api, stream(api), is_stream=True, status=200) == told


@pytest.mark.parametrize("api", STREAMED)
def test_the_beginning_of_a_stream_is_the_beginning_of_its_text(api: str) -> None:
    whole = stream(api)
    for size in range(len(whole) - 2):
        told = read(api, whole[:size], is_stream=True, status=200)
        assert "Salt.".startswith(told.text)
        assert not told.is_ended


@pytest.mark.parametrize("api", STREAMED)
def test_an_error_in_the_stream_is_no_end(api: str) -> None:
    event = (
        {"type": "error", "error": {"code": "cut"}} if api in ("messages", "responses") else {"error": {"code": "cut"}}
    )
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    assert read(api, data, is_stream=True, status=200) == Told(error="cut")


def test_an_error_by_its_status_has_a_code() -> None:
    assert read("chat", b'{"error": {"code": "busy"}}', is_stream=True, status=429) == Told(error="busy")
