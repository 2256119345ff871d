import json
from typing import Any

import pytest

from servery.wire.completions import decode_completion
from servery.wire.errors import ApiError


def request(prompt: Any = "once", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, **fields}).encode()


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("once", ["once"]),
        (["once", "upon"], ["once", "upon"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_is_text_or_tokens_or_a_list_of_either(prompt: Any, expected: list[Any]) -> None:
    assert decode_completion(request(prompt)).prompts == expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (request(""), "prompt", "invalid_value"),
        (request([]), "prompt", "invalid_value"),
        (request([[]]), "prompt[0]", "invalid_value"),
        (request(["a", ""]), "prompt[1]", "invalid_value"),
        (request(["a", 1]), "prompt", "invalid_value"),
        (request([1, [1]]), "prompt", "invalid_value"),
        (request([1.5]), "prompt[0]", "invalid_type"),
        (request([True]), "prompt[0]", "invalid_type"),
        (request(["a"] * 129), "prompt", "invalid_value"),
        (request(["a"] * 43, n=3), "n", "invalid_value"),
        (request(None), "prompt", "invalid_type"),
        (request(suffix="end"), "suffix", "unsupported_parameter"),
        (request(best_of=2), "best_of", "unsupported_parameter"),
        (request(messages=[]), "messages", "unknown_parameter"),
        (request(logprobs=True), "logprobs", "invalid_type"),
    ],
)
def test_what_cannot_be_completed_is_refused_by_name(body: bytes, param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode_completion(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_best_of_may_be_what_it_means_anyway() -> None:
    assert decode_completion(request(best_of=1)).best_of == 1
    assert decode_completion(request(best_of=3, n=3)).best_of == 3


def test_one_request_asks_for_so_many_completions_in_all() -> None:
    assert decode_completion(request(["a"] * 64, n=2)).n == 2
    with pytest.raises(ApiError, match="43 prompts with 'n' 3 are 129 completions; at most 128 are allowed"):
        decode_completion(request(["a"] * 43, n=3))
    assert decode_completion(request("a", n=129)).n == 129  # the engine says what n may be
