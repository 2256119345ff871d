import json
from typing import Any

import pytest

from servery.upstream.anthropic.errors import refused
from servery.upstream.failure import Kind, UpstreamFailure, is_content_policy, is_context_window
from servery.wire.errors import ApiError


def error(status: int, kind: str, message: str, **headers: str) -> ApiError | UpstreamFailure:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return refused(status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode(), "claude")  # fmt: skip


def failure(*args: Any, **headers: str) -> UpstreamFailure:
    found = error(*args, **headers)
    assert isinstance(found, UpstreamFailure)
    return found


def refusal(*args: Any) -> ApiError:
    found = error(*args)
    assert isinstance(found, ApiError)
    return found


def test_what_is_wrong_with_a_request_is_told_in_anthropics_words() -> None:
    found = refusal(400, "invalid_request_error", "max_tokens: must be greater than thinking.budget_tokens")

    assert (found.status, found.kind, found.code, found.message) == (
        400, "invalid_request_error", "invalid_request_error", "max_tokens: must be greater than thinking.budget_tokens",
    )  # fmt: skip
    assert not is_context_window(found)


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210432 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens`",
    ],
)
def test_a_prompt_that_is_too_long_is_known_as_such(message: str) -> None:
    found = refusal(400, "invalid_request_error", message)

    assert (found.code, found.message, is_context_window(found)) == ("context_length_exceeded", message, True)


def test_content_that_is_not_allowed_is_known_as_such() -> None:
    found = refusal(400, "invalid_request_error", "Output blocked by content filtering policy")

    assert (found.code, is_content_policy(found)) == ("content_policy_violation", True)


def test_throttling_says_until_when() -> None:
    found = failure(429, "rate_limit_error", "Too many", retry_after="7")

    assert (found.kind, found.status, found.retry_after_s, found.counts_against_health) == (
        Kind.THROTTLED,
        429,
        7.0,
        False,
    )
    assert (found.error.status, found.error.message, found.error.retry_after_s) == (
        429,
        "The model's deployment is asked too much at the moment; try again later.",
        7.0,
    )


def test_overload_is_told_as_a_status_that_all_clients_know() -> None:
    found = failure(529, "overloaded_error", "Overloaded")

    assert (found.kind, found.status, found.error.status, found.counts_against_health) == (
        Kind.OVERLOADED,
        529,
        503,
        False,
    )


@pytest.mark.parametrize(("status", "told"), [(401, 502), (403, 502), (404, 502), (402, 502), (500, 500), (504, 504)])
def test_what_is_no_fault_of_the_client_may_be_mended_elsewhere(status: int, told: int) -> None:
    found = failure(status, "some_error", "no key sk-ant-1 here")

    assert (found.kind, found.status, found.error.status, found.may_go_elsewhere) == (Kind.STATUS, status, told, True)
    assert found.counts_against_health == (status >= 500)
    assert "sk-ant-1" not in found.error.message
    assert "deployment" in found.error.message


def test_a_page_instead_of_an_error_is_quoted() -> None:
    found = refused(502, {}, b"<html>\n<h1>Bad Gateway</h1>" + b"x" * 5_000, "claude")

    assert isinstance(found, UpstreamFailure)
    assert str(found).startswith("the deployment 'claude' answered 502: <html> <h1>Bad Gateway</h1>xxx")
    assert len(str(found)) < 600
