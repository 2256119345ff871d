"""What an upstream's refusal comes to: the client's own fault, or a failure after which others are asked."""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.redaction import parameter, redacted, word
from servery.wire.errors import ApiError, shown, unsupported

# Of the 4xx those that are no fault of the client: a key, a model's name or an address in the configuration is wrong, the
# account has no money, or the request came at a bad time.
_NOT_THE_CLIENTS = frozenset((401, 402, 403, 404, 405, 406, 407, 408, 409, 421, 424, 425))
_OVERLOADED = 529
_SHOWN_CHARS = 500
_PAGE_CHARS = 120
_LONGEST_WAIT_S = 86_400.0
_PAGE = re.compile(r"\s*<(?:!doctype html|html)\b(?:(?!<body).)*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error as an upstream told it; `code` and `kind` are its own words, kept."""

    status: int
    message: str
    code: str | None = None
    kind: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
    is_quota: bool = False

    def raised(self, deployment: str) -> ApiError | UpstreamFailure:
        """The exception for it."""
        if 400 <= self.status < 500 and self.status not in (*_NOT_THE_CLIENTS, 429):
            return self._told(self.status, redacted(self.message))
        if self.status == 429 and not self.is_quota:
            kind = Kind.THROTTLED
        else:
            kind = Kind.OVERLOADED if self.status == _OVERLOADED else Kind.STATUS
        message = f"the deployment '{deployment}' answered {self.status}: {self.message}"
        return UpstreamFailure(
            kind,
            message,
            status=self.status,
            error=self._passed_on(),
            retry_after_s=self.retry_after_s,
            logged=self._logged(),
        )

    def _logged(self) -> str:
        """Without the message, unless it is the head of a page."""
        words = [f"{name} {said}" for name, said in (("code", word(self.code)), ("type", word(self.kind))) if said]
        page = page_head(self.message)
        return (
            f"it answered {self.status}" + (f" ({', '.join(words)})" if words else "") + (f": {page}" if page else "")
        )

    def _passed_on(self) -> ApiError:
        """What the client is told if nobody else can answer: never with a status that speaks of the client's own key."""
        if self.status in (401, 403):
            message = "The model's deployment refused this server's credentials."
            return ApiError(502, message, kind="server_error", code="upstream_authentication", is_final=True)
        if self.status == 429:
            quota = "has no quota left; its operator has to look"
            why = quota if self.is_quota else "is asked too much at the moment; try again later"
            words = ("insufficient_quota",) * 2 if self.is_quota else ("rate_limit_error", "rate_limit_exceeded")
            return self._told(429, f"The model's deployment {why}.", *words)
        if self.status == _OVERLOADED:
            return self._told(503, "The model's deployment is overloaded; try again later.")
        status = 502 if self.status < 500 else self.status
        return self._told(
            status, f"The model's deployment answered with status {self.status}; its operator has to look."
        )

    def _told(self, status: int, message: str, kind: str | None = None, code: str | None = None) -> ApiError:
        """In our words, but for those that are known to tell nothing of the deployment; `kind` and `code` where it has none."""
        kind = word(self.kind) or kind or ("invalid_request_error" if status < 500 else "server_error")
        return ApiError(
            status,
            message,
            kind=kind,
            code=word(self.code) or code,
            param=parameter(self.param),
            retry_after_s=self.retry_after_s,
        )


def cannot(param: str, why: str) -> UpstreamFailure:
    """What a deployment's API has no word for: another deployment may, else the client is told 400."""
    error = unsupported(param, why)
    return UpstreamFailure(Kind.STATUS, error.message, status=error.status, error=error)


def unspoken(api: str) -> UpstreamFailure:
    """What a deployment says to an API that it has nothing for: another deployment may, else the client is told 400."""
    message = f"The model is not served for {api}; its deployments' 'apis' do not have it."
    if api == "generate":
        message = (
            "TGI's /generate, /generate_stream and / are answered by models that run in this server, and this one runs "
            "elsewhere: ask /v1/chat/completions for it (InferenceClient.chat_completion)."
        )
    error = ApiError(400, message, param="model", code="unsupported_api")
    return UpstreamFailure(Kind.STATUS, message, status=error.status, error=error)


def malformed(deployment: str, what: str) -> UpstreamFailure:
    """An answer that is none. The client is not told what it was instead: that may be anything."""
    told = f"the deployment '{deployment}' gave an answer that cannot be used"
    return UpstreamFailure(Kind.MALFORMED, f"the deployment '{deployment}' gave {what}", told=told)


def not_an_api(deployment: str, content_type: str, expected: str, body: bytes) -> UpstreamFailure:
    """An answer of another type: a page of a proxy's or a login's, as a rule, because an address is wrong."""
    text, what = excerpt(body), "a page of HTML" if "html" in content_type.lower() else "something else"
    given = f"'{shown(content_type)}' instead of '{expected}'"
    page = page_head(text)
    return UpstreamFailure(
        Kind.MALFORMED,
        f"the deployment '{deployment}' gave {given}: {text}",
        told=f"The deployment '{deployment}' answered with {what}, which is not an API's answer; its operator has to look.",
        logged=f"it gave {given}, which is not an API's answer" + (f": {page}" if page else ""),
    )


def page_head(text: str) -> str:
    """The beginning of a page of HTML, up to its body; empty for what is none: that may be a prompt, or an answer."""
    found = _PAGE.match(text)
    return "" if found is None else found[0][:_PAGE_CHARS].rstrip()


def cut(deployment: str) -> UpstreamFailure:
    """An answer that ended before its end."""
    return UpstreamFailure(Kind.CUT, f"the answer of the deployment '{deployment}' ended before it was complete")


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """When to ask again, from `retry-after-ms` or `retry-after` (seconds, or a date; `now_s` is Unix time).

    At most a day: an upstream may say anything, and is told on to clients. None for what is no time.
    """
    try:
        wait_s = _wait_s(headers, now_s)
    except (ValueError, OverflowError):
        return None
    return None if wait_s is None or math.isnan(wait_s) else min(max(0.0, wait_s), _LONGEST_WAIT_S)


def _wait_s(headers: Mapping[str, str], now_s: float | None) -> float | None:
    if (given := headers.get("retry-after-ms")) is not None:
        return float(given) / 1000
    if (given := headers.get("retry-after")) is None:
        return None
    if given.strip().replace(".", "", 1).isdigit():
        return float(given)
    date = email.utils.parsedate_to_datetime(given)
    at = date if date.tzinfo else date.replace(tzinfo=UTC)
    return at.timestamp() - (time.time() if now_s is None else now_s)


def excerpt(body: bytes) -> str:
    """The beginning of a body that is not understood, as text on one line."""
    text = " ".join(body[: 4 * _SHOWN_CHARS].decode("utf-8", "replace").split())
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
