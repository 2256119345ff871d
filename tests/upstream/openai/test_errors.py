"""The shapes in which servers tell errors, as recorded from them."""

import json
from typing import Any

import pytest

from servery.upstream.failure import Kind, UpstreamFailure, is_context_window
from servery.upstream.openai.errors import refused
from servery.wire.errors import ApiError

OPENAI_LONG = {"error": {
    "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
}}  # fmt: skip
VLLM_LONG = {"error": {
    "message": "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens.",
    "type": "BadRequestError", "param": None, "code": 400,
}}  # fmt: skip
OLD_VLLM_LONG = {"object": "error", **VLLM_LONG["error"]}
SGLANG_LONG = {"object": "error", "message": "The input (9001 tokens) is longer than the model's context length (8192 tokens).", "type": "BadRequest", "param": None, "code": 400}  # fmt: skip
LLAMA_LONG = {"error": {
    "code": 400, "message": "the request exceeds the available context size, try increasing it",
    "type": "exceed_context_size_error", "n_prompt_tokens": 9001, "n_ctx": 8192,
}}  # fmt: skip
TGI_LONG = {
    "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
    "error_type": "validation",
}


def error(status: int, body: Any, **headers: str) -> ApiError | UpstreamFailure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refused(status, {name.replace("_", "-"): value for name, value in headers.items()}, data, "gpt")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, OPENAI_LONG),
        (400, VLLM_LONG),
        (400, OLD_VLLM_LONG),
        (400, SGLANG_LONG),
        (400, LLAMA_LONG),
        (422, TGI_LONG),
    ],
)
def test_a_prompt_that_is_too_long_is_known_from_every_server(status: int, body: Any) -> None:
    found = error(status, body)

    assert isinstance(found, ApiError)
    assert (found.status, found.code, is_context_window(found)) == (status, "context_length_exceeded", True)


def test_what_is_wrong_with_a_request_is_told_verbatim() -> None:
    found = error(400, {"error": {"message": "No.", "type": "some_type", "param": "n", "code": "odd_code"}})

    assert isinstance(found, ApiError)
    assert (found.status, found.message, found.kind, found.param, found.code) == (
        400,
        "No.",
        "some_type",
        "n",
        "odd_code",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (TGI_LONG, TGI_LONG["error"]),
        ({"detail": "Not here"}, "Not here"),
        ({"error": {"message": ""}}, '{"error": {"message": ""}}'),
        (b"<html>\n <p>no</p>", "<html> <p>no</p>"),
        (b"", "The server answered 400."),
        ([1], "[1]"),
    ],
)
def test_the_message_is_found_in_every_shape(body: Any, message: str) -> None:
    found = error(400, body)

    assert isinstance(found, ApiError)
    assert found.message == message


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, Kind.THROTTLED, 429),
        (429, {"error": {"message": "pay", "type": "insufficient_quota"}}, Kind.STATUS, 429),
        (401, {"error": {"message": "bad key sk-1"}}, Kind.STATUS, 502),
        (404, {"error": {"message": "no such model"}}, Kind.STATUS, 502),
        (302, b"", Kind.STATUS, 502),
        (500, b"oops", Kind.STATUS, 500),
        (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, Kind.STATUS, 503),
    ],
)
def test_what_is_no_fault_of_the_client_may_be_mended_elsewhere(status: int, body: Any, kind: Kind, told: int) -> None:
    found = error(status, body, retry_after="2")

    assert isinstance(found, UpstreamFailure)
    assert (found.kind, found.status, found.error.status, found.retry_after_s) == (kind, status, told, 2.0)
    assert found.counts_against_health == (status >= 500)
    assert found.error.is_final == (status == 401)  # asked again, it would refuse the same credentials
    assert "sk-1" not in found.error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "slow"}}, ("rate_limit_error", "rate_limit_exceeded")),
        (b"<html>", ("rate_limit_error", "rate_limit_exceeded")),
        ({"error": {"message": "slow", "type": "tokens", "code": "too_many"}}, ("tokens", "too_many")),
        ({"error": {"message": "pay", "type": "insufficient_quota"}}, ("insufficient_quota", "insufficient_quota")),
    ],
)
def test_who_asks_too_much_is_told_in_the_words_for_that_where_the_server_has_none(
    body: Any, words: tuple[str, str]
) -> None:
    found = error(429, body)

    assert isinstance(found, UpstreamFailure)
    assert (found.error.kind, found.error.code) == words
