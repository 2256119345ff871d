"""What goes wrong with an upstream, in the words by which others decide: count it, try again, go elsewhere, tell it."""

import enum

from servery.wire.errors import ApiError, rate_limited, timed_out, unavailable

_RETRY_AFTER_S = 1.0
_WORDS_OF_CONTEXT = (
    "context length",
    "context window",
    "context_length",
    "prompt is too long",
    "input is too long",
    "too many input tokens",
    "maximum number of tokens",
    "reduce the length",
)
_CODES_OF_POLICY = ("content_filter", "content_policy", "responsibleaipolicyviolation", "guardrail_intervened")
_WORDS_OF_POLICY = ("content management policy", "content policy", "content filtering policy", "usage policies")


class Kind(enum.Enum):
    """What happened; the values are a metric's label and a record's error type."""

    REFUSED = "refused"  # no connection: nobody listens, no such host, no TLS
    RESET = "reset"  # the connection was lost before the answer began
    TIMEOUT = "timeout"
    STATUS = "status"  # an answer that is an error, and not the client's fault
    THROTTLED = "throttled"  # 429: asked to come back later
    OVERLOADED = "overloaded"  # full, without being broken
    MALFORMED = "malformed"  # an answer that is none: HTML, half an event, something that is no JSON
    CUT = "cut"  # an answer that ended before its end


class Deadline(enum.Enum):
    """Which time was up; the values are a metric's label."""

    CONNECT = "connect"
    FIRST_TOKEN = "first_token"  # noqa: S105 - no password
    STALL = "stall"
    TOTAL = "total"


# A deployment that says that it is asked too much is well; one that says that its key is wrong is not made so by waiting.
_HARMLESS = (Kind.THROTTLED, Kind.OVERLOADED)


class UpstreamFailure(Exception):
    """An answer that did not come, or not whole, through no fault of the client.

    `status` and `error` are what the upstream answered, the error in its own words; `retry_after_s` is when it wants to be
    asked again. `error` is what the client is told in the end, unless another upstream answers.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        deadline: Deadline | None = None,
        status: int | None = None,
        error: ApiError | None = None,
        retry_after_s: float | None = None,
        told: str | None = None,
        logged: str | None = None,
    ) -> None:
        """`told` is what the client reads instead of `message`, and `logged` what the log says.

        A message may have words of the upstream's, and these may be a client's: prompts and answers are in no log.
        """
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.logged = message if logged is None else logged
        self.deadline = deadline
        self.status = status
        self.retry_after_s = retry_after_s
        self.error = self._told(message if told is None else told) if error is None else error

    @property
    def counts_against_health(self) -> bool:
        """Whether the deployment looks broken: refusing, cutting, silent, 5xx. Never 429 or another 4xx."""
        if self.kind in _HARMLESS or self.deadline is Deadline.TOTAL:
            return False
        return self.kind is not Kind.STATUS or self.status is None or self.status >= 500

    @property
    def may_repeat(self) -> bool:
        """Whether the same deployment may be asked once more: it was not silent, and its refusal may pass."""
        if self.kind is Kind.STATUS:
            return self.status is None or self.status >= 500
        return self.kind is not Kind.TIMEOUT or self.deadline is Deadline.CONNECT

    @property
    def may_go_elsewhere(self) -> bool:
        """Whether another deployment may be asked: always, unless there is no time left."""
        return self.deadline is not Deadline.TOTAL

    @property
    def name(self) -> str:
        """Which failure it is, in one word or two, for records and metrics."""
        if self.deadline is not None:
            return f"{self.deadline.value}_timeout"
        return f"status_{self.status}" if self.kind is Kind.STATUS and self.status else self.kind.value

    def _told(self, message: str) -> ApiError:
        if self.kind in _HARMLESS:
            return rate_limited(message, self.retry_after_s or _RETRY_AFTER_S)
        if self.kind is Kind.TIMEOUT and self.deadline is not Deadline.CONNECT:
            return timed_out(message)
        if self.kind in (Kind.MALFORMED, Kind.CUT):
            return ApiError(502, message, kind="server_error", code=f"upstream_{self.kind.value}")
        return unavailable(message, self.retry_after_s or _RETRY_AFTER_S)


def failure_of(error: ApiError) -> UpstreamFailure | None:
    """The failure behind an error that an upstream raised; None if it is the client's own fault."""
    if error.status == 429:
        return UpstreamFailure(
            Kind.THROTTLED, error.message, status=429, error=error, retry_after_s=error.retry_after_s
        )
    if error.status == 504:
        return UpstreamFailure(Kind.TIMEOUT, error.message, deadline=Deadline.TOTAL, status=504, error=error)
    if error.status >= 500:
        return UpstreamFailure(
            Kind.STATUS, error.message, status=error.status, error=error, retry_after_s=error.retry_after_s
        )
    return None


def is_context_window(error: ApiError) -> bool:
    """Whether a refusal says that the prompt is too long for the model: one with a longer context could do it."""
    if error.status not in (400, 413, 422):
        return False
    return error.code == "context_length_exceeded" or _has(error.message, _WORDS_OF_CONTEXT)


def is_content_policy(error: ApiError) -> bool:
    """Whether a refusal says that the content is not allowed there; another provider may judge otherwise."""
    if not 400 <= error.status < 500:
        return False
    code = (error.code or "").lower()
    return any(each in code for each in _CODES_OF_POLICY) or _has(error.message, _WORDS_OF_POLICY)


def _has(message: str, words: tuple[str, ...]) -> bool:
    text = message.lower()
    return any(each in text for each in words)
