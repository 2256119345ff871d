import pytest

from servery.upstream.failure import (
    Deadline,
    Kind,
    UpstreamFailure,
    failure_of,
    is_content_policy,
    is_context_window,
)
from servery.wire.errors import ApiError, context_length_exceeded, failed, invalid, rate_limited, timed_out, unavailable

FAILURES = [
    # failure, counts against health, may repeat, may go elsewhere, name, status told
    (UpstreamFailure(Kind.REFUSED, "no"), True, True, True, "refused", 503),
    (UpstreamFailure(Kind.RESET, "no"), True, True, True, "reset", 503),
    (UpstreamFailure(Kind.TIMEOUT, "no", deadline=Deadline.CONNECT), True, True, True, "connect_timeout", 503),
    (UpstreamFailure(Kind.TIMEOUT, "no", deadline=Deadline.FIRST_TOKEN), True, False, True, "first_token_timeout", 504),
    (UpstreamFailure(Kind.TIMEOUT, "no", deadline=Deadline.STALL), True, False, True, "stall_timeout", 504),
    (UpstreamFailure(Kind.TIMEOUT, "no", deadline=Deadline.TOTAL), False, False, False, "total_timeout", 504),
    (UpstreamFailure(Kind.STATUS, "no", status=500), True, True, True, "status_500", 503),
    (UpstreamFailure(Kind.STATUS, "no", status=401), False, False, True, "status_401", 503),
    (UpstreamFailure(Kind.THROTTLED, "no", status=429, retry_after_s=7.0), False, True, True, "throttled", 429),
    (UpstreamFailure(Kind.OVERLOADED, "no"), False, True, True, "overloaded", 429),
    (UpstreamFailure(Kind.MALFORMED, "no"), True, True, True, "malformed", 502),
    (UpstreamFailure(Kind.CUT, "no"), True, True, True, "cut", 502),
]


@pytest.mark.parametrize(
    ("failure", "counts", "repeats", "elsewhere", "name", "status"), FAILURES, ids=[case[4] for case in FAILURES]
)
def test_each_failure_says_what_to_do_and_what_is_told(
    failure: UpstreamFailure, counts: bool, repeats: bool, elsewhere: bool, name: str, status: int
) -> None:
    said = (failure.counts_against_health, failure.may_repeat, failure.may_go_elsewhere, failure.name)
    assert (*said, failure.error.status) == (counts, repeats, elsewhere, name, status)


def test_a_throttle_tells_the_client_when_to_come_back() -> None:
    assert UpstreamFailure(Kind.THROTTLED, "no", retry_after_s=7.0).error.retry_after_s == 7.0
    assert UpstreamFailure(Kind.THROTTLED, "no").error.retry_after_s == 1.0


def test_the_upstream_s_own_error_is_told_in_its_words() -> None:
    error = ApiError(529, "Overloaded", kind="overloaded_error", code="x")
    assert UpstreamFailure(Kind.OVERLOADED, "no", error=error).error is error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (rate_limited("full", 3.0), "throttled"),
        (unavailable("gone", 2.0), "status_503"),
        (failed("broken"), "status_500"),
        (timed_out("late"), "total_timeout"),
    ],
)
def test_an_error_that_is_not_the_client_s_fault_is_a_failure_told_unchanged(error: ApiError, name: str) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert (failure.name, failure.error, failure.retry_after_s) == (name, error, error.retry_after_s)


def test_what_is_the_client_s_fault_is_no_failure() -> None:
    assert failure_of(invalid("wrong")) is None


@pytest.mark.parametrize(
    ("error", "is_long", "is_refused"),
    [
        (context_length_exceeded(10, 20, None, "messages"), True, False),
        (ApiError(400, "prompt is too long: 200001 tokens > 200000 maximum"), True, False),
        (ApiError(400, "Input is too long for requested model."), True, False),
        (ApiError(400, "no", code="content_filter"), False, True),
        (ApiError(400, "The response was filtered due to Azure's content management policy."), False, True),
        (ApiError(400, "no", code="content_policy_violation"), False, True),
        (ApiError(500, "context length", code="content_filter"), False, False),
        (invalid("'n' is 0; it must be at least 1.", "n"), False, False),
    ],
)
def test_prompts_too_long_and_contents_refused_are_told_apart(error: ApiError, is_long: bool, is_refused: bool) -> None:
    assert (is_context_window(error), is_content_policy(error)) == (is_long, is_refused)
