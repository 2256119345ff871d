import json

from servery.wire.completion_answer import CompletionChoice, CompletionLogprobs, CompletionStream, encode_completion
from servery.wire.usage import Usage

LOGPROBS = CompletionLogprobs(["a", "b"], [None, -1.0], [None, {"b": -1.0}], [0, 1])
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m"}


def test_an_answer_has_openais_shape() -> None:
    encoded = encode_completion("cmpl-1", 5, "m", [CompletionChoice(0, "ab", LOGPROBS, "length")], Usage.of(1, 2, 0))

    assert json.loads(encoded) == {
        **HEAD,
        "choices": [
            {
                "index": 0,
                "text": "ab",
                "logprobs": {
                    "tokens": ["a", "b"],
                    "token_logprobs": [None, -1.0],
                    "top_logprobs": [None, {"b": -1.0}],
                    "text_offset": [0, 1],
                },
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_a_stream_without_usage_has_no_usage_field() -> None:
    stream = CompletionStream("cmpl-1", 5, "m", include_usage=False)

    chunks = [json.loads(event[6:]) for event in (stream.text(0, "a", None), stream.finish(0, "stop"))]
    assert chunks == [
        {**HEAD, "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}]},
        {**HEAD, "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]},
    ]


def test_with_usage_every_chunk_has_the_field_and_the_last_has_no_choices() -> None:
    stream = CompletionStream("cmpl-1", 5, "m", include_usage=True)

    assert json.loads(stream.text(0, "a", None)[6:])["usage"] is None
    last = json.loads(stream.usage(Usage.of(1, 2, 0))[6:])
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 3)
