"""What Anthropic's API says when it does not answer, as a refusal."""

from collections.abc import Mapping

import msgspec

from servery.upstream.failure import UpstreamFailure
from servery.upstream.refusal import Refusal, excerpt, retry_after_s
from servery.wire.errors import ApiError

# https://platform.claude.com/docs/en/api/errors
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TOO_LONG = ("prompt is too long", "exceed context limit", "input is too long")
_NOT_ALLOWED = ("content filtering policy", "usage policy")


class _Error(msgspec.Struct, frozen=True):
    type: str = ""
    message: str = ""


class _Body(msgspec.Struct, frozen=True):
    error: _Error


def refused(status: int, headers: Mapping[str, str], body: bytes, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an answer with an error status."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _Error(message=excerpt(body))
    return _refusal(status, error, retry_after_s(headers)).raised(deployment)


def event_error(error: msgspec.Raw, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an error in the middle of a stream."""
    try:
        found = msgspec.json.decode(error, type=_Error)
    except msgspec.DecodeError:
        found = _Error(message=excerpt(bytes(error)))
    return _refusal(_STATUSES.get(found.type, 500), found, None).raised(deployment)


def _refusal(status: int, error: _Error, retry_after: float | None) -> Refusal:
    code, message = error.type or None, error.message or f"Anthropic's API answered {status}."
    if status in (400, 413) and any(words in message.lower() for words in _TOO_LONG):
        code = "context_length_exceeded"
    elif status == 400 and any(words in message.lower() for words in _NOT_ALLOWED):
        code = "content_policy_violation"
    return Refusal(status=status, message=message, code=code, kind=error.type or None, retry_after_s=retry_after)
