import json
from typing import Any

from servery.wire.chat_answer import ChatForm
from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob, TopLogprob
from servery.wire.usage import Usage

USAGE = Usage.of(7, 2, 4)
USAGE_JSON = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
LOGPROBS = [TokenLogprob("hi", -0.5, [104, 105], [TopLogprob("hi", -0.5, [104, 105])])]
LOGPROBS_JSON = {
    "content": [
        {
            "token": "hi",
            "logprob": -0.5,
            "bytes": [104, 105],
            "top_logprobs": [{"token": "hi", "logprob": -0.5, "bytes": [104, 105]}],
        }
    ],
    "refusal": None,
}


def events(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n\n")
    parts = data.removesuffix(b"\n\n").split(b"\n\n")
    assert all(part.startswith(b"data: ") for part in parts)
    return [json.loads(part[6:]) for part in parts]


def test_an_answer_has_openais_shape() -> None:
    messages = [
        Message(index=0, content="hi", logprobs=LOGPROBS),
        Message(index=1, content="ho", finish_reason="length"),
    ]

    assert json.loads(ChatForm("chatcmpl-1", 5, "m").body(messages, USAGE)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"content": "hi", "role": "assistant", "refusal": None},
                "logprobs": LOGPROBS_JSON,
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"content": "ho", "role": "assistant", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            },
        ],
        "usage": USAGE_JSON,
    }


def test_a_message_with_calls_has_no_content_unless_it_said_something() -> None:
    call = Call(id="call_1", name="add", arguments='{"a":1}')
    messages = [
        Message(index=0, reasoning="let me add", calls=[call], finish_reason="tool_calls"),
        Message(index=1, content="so:", calls=[call], finish_reason="tool_calls"),
    ]

    shown = [choice["message"] for choice in json.loads(ChatForm("c", 5, "m").body(messages, USAGE))["choices"]]

    called = [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}]
    head = {"role": "assistant", "refusal": None, "tool_calls": called}
    assert shown == [{**head, "content": None, "reasoning_content": "let me add"}, {**head, "content": "so:"}]


def test_a_stream_goes_from_role_to_text_to_finish() -> None:
    form = ChatForm("chatcmpl-1", 5, "m")
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}

    def chunk(delta: dict[str, str], logprobs: object = None, finish: str | None = None) -> dict[str, object]:
        return {**head, "choices": [{"index": 1, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}

    assert form.start(USAGE) == b""
    assert events(form.delta(MessageDelta(index=1, content="hi\n", logprobs=LOGPROBS))) == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "hi\n"}, LOGPROBS_JSON),
    ]
    assert form.delta(MessageDelta(index=1)) == b""
    assert events(form.delta(MessageDelta(index=1, content="!", finish_reason="stop"))) == [
        chunk({"content": "!"}),
        chunk({}, None, "stop"),
    ]
    assert form.end(USAGE) == b""


def test_a_stream_of_reasoning_and_calls_says_id_and_name_once() -> None:
    form = ChatForm("chatcmpl-1", 5, "m")
    form.delta(MessageDelta())
    deltas = [
        MessageDelta(reasoning="hm"),
        MessageDelta(calls=(CallDelta(position=0, id="call_1", name="add", arguments=""),)),
        MessageDelta(calls=(CallDelta(position=0, arguments="{}"),)),
    ]

    assert [events(form.delta(delta))[0]["choices"][0]["delta"] for delta in deltas] == [
        {"reasoning_content": "hm"},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]


def test_with_usage_every_chunk_has_the_field_and_the_last_has_no_choices() -> None:
    form = ChatForm("chatcmpl-1", 5, "m", include_usage=True)

    assert [chunk["usage"] for chunk in events(form.delta(MessageDelta(content="hi")))] == [None, None]
    (last,) = events(form.end(USAGE))
    assert (last["choices"], last["usage"]) == ([], USAGE_JSON)


def test_reasoning_is_left_out_for_those_who_do_not_want_it() -> None:
    form = ChatForm("chatcmpl-1", 5, "m", shows_reasoning=False)
    said = events(form.delta(MessageDelta(reasoning="hm")) + form.delta(MessageDelta(content="hi")))
    body = json.loads(form.body([Message(index=0, reasoning="hm", content="hi")], USAGE))

    assert [event["choices"][0]["delta"] for event in said] == [{"role": "assistant", "content": ""}, {"content": "hi"}]
    assert "reasoning_content" not in body["choices"][0]["message"]
