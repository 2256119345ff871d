import json

from servery.wire.chat_answer import (
    ChatLogprobs,
    ChatStream,
    TokenLogprob,
    TopLogprob,
    chat_choice,
    encode_chat,
)
from servery.wire.usage import Usage

USAGE = Usage.of(7, 2, 4)
USAGE_JSON = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
}
LOGPROBS = ChatLogprobs([TokenLogprob("hi", -0.5, [104, 105], [TopLogprob("hi", -0.5, [104, 105])])])
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


def data(event: bytes) -> dict[str, object]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    value: dict[str, object] = json.loads(event[6:-2])
    return value


def test_an_answer_has_openais_shape() -> None:
    choices = [chat_choice(0, "hi", LOGPROBS, "stop"), chat_choice(1, "ho", None, "length")]

    assert json.loads(encode_chat("chatcmpl-1", 5, "m", choices, USAGE)) == {
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


def test_a_stream_goes_from_role_to_text_to_finish() -> None:
    stream = ChatStream("chatcmpl-1", 5, "m", include_usage=False)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}

    def chunk(delta: dict[str, str], logprobs: object = None, finish: str | None = None) -> dict[str, object]:
        return {**head, "choices": [{"index": 1, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}

    assert data(stream.role(1)) == chunk({"role": "assistant", "content": ""})
    assert data(stream.text(1, "hi\n", LOGPROBS)) == chunk({"content": "hi\n"}, LOGPROBS_JSON)
    assert data(stream.finish(1, "stop")) == chunk({}, None, "stop")


def test_with_usage_every_chunk_has_the_field_and_the_last_has_no_choices() -> None:
    stream = ChatStream("chatcmpl-1", 5, "m", include_usage=True)

    assert data(stream.text(0, "hi", None))["usage"] is None
    last = data(stream.usage(USAGE))
    assert (last["choices"], last["usage"]) == ([], USAGE_JSON)
