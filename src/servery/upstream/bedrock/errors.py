"""What Bedrock says when it does not answer, as a refusal."""

from collections.abc import Mapping

import msgspec

from servery.upstream.failure import UpstreamFailure
from servery.upstream.refusal import Refusal, excerpt, retry_after_s
from servery.wire.errors import ApiError

# https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
_STATUSES = {
    "validationexception": 400,
    "accessdeniedexception": 403,
    "resourcenotfoundexception": 404,
    "modeltimeoutexception": 408,
    "modelerrorexception": 424,
    "modelstreamerrorexception": 424,
    "throttlingexception": 429,
    "modelnotreadyexception": 429,
    "internalserverexception": 500,
    "serviceunavailableexception": 503,
}
# The model's own faults, which 4xx would lay at the client's door.
_OWN_FAULTS = {"modeltimeoutexception": 504, "modelerrorexception": 500, "modelstreamerrorexception": 500}
_TOO_LONG = (
    "input is too long",
    "prompt is too long",
    "too many input tokens",
    "exceed context limit",
    "context length",
)
_NOT_ALLOWED = ("content filtering policy", "blocked by guardrail")


class _Error(msgspec.Struct, frozen=True):
    message: str | None = None
    Message: str | None = None  # older services write it so

    @property
    def text(self) -> str:
        """The message, by either name."""
        return self.message or self.Message or ""


def refused(status: int, headers: Mapping[str, str], body: bytes, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an answer with an error status; which error it is stands in a header."""
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    return _refusal(status, name, body, retry_after_s(headers)).raised(deployment)


def stream_error(name: str, payload: bytes, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an exception in the middle of a stream."""
    return _refusal(_STATUSES.get(name.lower(), 500), name, payload, None).raised(deployment)


def _refusal(status: int, name: str, body: bytes, retry_after: float | None) -> Refusal:
    try:
        message = msgspec.json.decode(body, type=_Error).text
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = excerpt(body)
    code: str | None = name or None
    if status == 400 and any(words in message.lower() for words in _TOO_LONG):
        code = "context_length_exceeded"
    elif status == 400 and any(words in message.lower() for words in _NOT_ALLOWED):
        code = "content_policy_violation"
    status = _OWN_FAULTS.get(name.lower(), status)
    return Refusal(
        status=status, message=message or f"Bedrock answered {status}.", code=code, retry_after_s=retry_after
    )
