"""Prompts and answers of every API as messages for traces."""

import asyncio
import json
from typing import Any

import pytest

from servery.gateway.settle.content import MOST_BYTES, MOST_CHARS, Overheard, answered_messages, asked_messages
from servery.upstream.ask import Api, Ask, read_head


def ask(api: Api, **fields: Any) -> Ask:
    body = json.dumps({"model": "m", **fields}).encode()
    return Ask(api=api, body=body, head=read_head(body), model="m", base="m", answer_id="id", created=5)


def text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:secret"}}


@pytest.mark.parametrize(
    ("asked", "messages"),
    [
        (
            ask(
                Api.CHAT,
                messages=[
                    {"role": "system", "content": "be"},
                    {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "c", "content": "sun"},
                ],
            ),
            [
                {"role": "system", "parts": [text("be")]},
                {"role": "user", "parts": [text("see"), {"type": "image_url"}]},
                {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}]},
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "result": "sun"}]},
            ],
        ),
        (
            ask(Api.MESSAGES, system="be", messages=[{"role": "user", "content": "hi"}]),
            [{"role": "system", "parts": [text("be")]}, {"role": "user", "parts": [text("hi")]}],
        ),
        (
            ask(Api.RESPONSES, instructions="be", input="hi"),
            [{"role": "system", "parts": [text("be")]}, {"role": "user", "parts": [text("hi")]}],
        ),
        (
            ask(Api.RESPONSES, input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]),
            [{"role": "user", "parts": [text("hi")]}],
        ),
        (ask(Api.COMPLETIONS, prompt=["a", "b"]), [{"role": "user", "parts": [text("a"), text("b")]}]),
        (ask(Api.COMPLETIONS, prompt=[1, 2]), [{"role": "user", "parts": []}]),
        (ask(Api.CHAT, messages=[{"role": "user", "content": "a", "tool_calls": [1]}]), []),
        (ask(Api.CHAT, messages=3), [{"role": "user", "parts": []}]),
        (ask(Api.EMBEDDINGS, input="a"), [{"role": "user", "parts": [text("a")]}]),
        (
            ask(Api.RERANK, query="q", documents=["a"]),
            [{"role": "user", "parts": [text("q")]}, {"role": "user", "parts": [text("a")]}],
        ),
    ],
)
def test_what_was_asked(asked: Ask, messages: list[Any]) -> None:
    assert json.loads(asked_messages(asked, [])) == messages


def events(*bodies: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in bodies) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("asked", "data", "texts"),
    [
        (ask(Api.CHAT), json.dumps({"choices": [{"index": 0, "message": {"content": "a"}}]}).encode(), ["a"]),
        (
            ask(Api.CHAT, stream=True),
            events(
                {"choices": [{"index": 1, "delta": {"content": "b"}}]},
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "a"}}]},
                {"choices": [], "usage": {}},
                {"choices": [{"index": 0, "delta": {"content": "c"}}]},
            ),
            ["ac", "b"],
        ),
        (ask(Api.COMPLETIONS, stream=True), events({"choices": [{"index": 0, "text": "a"}]}), ["a"]),
        (ask(Api.MESSAGES), json.dumps({"content": [{"type": "text", "text": "a"}]}).encode(), ["a"]),
        (
            ask(Api.MESSAGES, stream=True),
            b"event: x\n" + events({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}),
            ["a"],
        ),
        (ask(Api.RESPONSES), json.dumps({"output": [{"content": [{"text": "a"}]}]}).encode(), ["a"]),
        (ask(Api.RESPONSES, stream=True), events({"type": "response.output_text.delta", "delta": "a"}), ["a"]),
        (ask(Api.GENERATE), b'{"generated_text": "a"}', ["a"]),
        (ask(Api.EMBEDDINGS), b'{"data": []}', None),
        (ask(Api.CHAT), b"", None),
        (ask(Api.CHAT), b"{", None),
        (ask(Api.CHAT), b"[1]", None),
        (ask(Api.CHAT), b'{"choices": [1]}', None),
        (ask(Api.CHAT), b'{"choices": [{"message": {"content": 1}}]}', None),
        (ask(Api.RESPONSES), b'{"output": [{"content": 3}]}', None),
    ],
)
def test_what_was_answered(asked: Ask, data: bytes, texts: list[str] | None) -> None:
    found = answered_messages(asked, data, ["stop"], [])
    said = None if found is None else [message["parts"][0]["content"] for message in json.loads(found)]
    assert said == texts


def test_keys_and_secrets_are_taken_out_before_a_text_is_cut() -> None:
    key = "sk-" + "a" * 40
    long = ask(Api.CHAT, messages=[{"role": "user", "content": "x" * (MOST_CHARS - 10) + " " + key + "y" * 100}] * 2)
    said = [message["parts"][0]["content"] for message in json.loads(asked_messages(long, ["yyyy"]))]
    assert "sk-" not in said[0]
    assert said[0].startswith("x" * 100)
    assert "characters more" in said[0]
    assert said[1].startswith("… (")


def test_no_more_is_listened_to_than_a_bound() -> None:
    class Client:
        def __init__(self) -> None:
            self.headers: list[tuple[str, str]] = []
            self.sent: list[bytes] = []

        async def stream(self, events: bytes) -> None:
            self.sent.append(events)

        def stream_at_once(self, events: bytes) -> bool:
            is_sent = len(self.sent) < 3
            self.sent += [events] * is_sent
            return is_sent

    client = Client()
    heard = Overheard(client)
    pieces = [b"a" * (MOST_BYTES // 2)] * 3
    asyncio.run(heard.stream(pieces[0]))
    assert [heard.stream_at_once(piece) for piece in (*pieces[1:], b"unsent")] == [True, True, False]
    heard.headers = [*heard.headers, ("a", "b")]
    assert (client.sent, client.headers) == (pieces, [("a", "b")])
    assert len(heard.data) == MOST_BYTES
