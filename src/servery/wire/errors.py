"""Errors as OpenAI clients read them: a status, and `{"error": {message, type, param, code}}`."""

import difflib
import math
from collections.abc import Iterable, Mapping

import msgspec

_SHOWN_CHARS = 100  # longer names of models, paths and parameters are cut in messages


class ApiError(Exception):
    """Something that the client is told, with the status it deserves.

    `kind` is the wire's `type`, `param` the parameter as the client wrote it (`"messages[0].content"`).
    With `retry_after_s` the answer says when to try again; `is_final` tells the official clients not to.
    `headers` are further ones that the status needs, as (name, value).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        is_final: bool = False,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        self.extra_headers = tuple(headers)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers that go with this error. The official clients read `retry-after-ms` first, others only seconds."""
        headers = list(self.extra_headers)
        if self.retry_after_s is not None:
            headers.append(("retry-after", str(max(1, math.ceil(self.retry_after_s)))))
            headers.append(("retry-after-ms", str(max(1, math.ceil(round(1000 * self.retry_after_s, 3))))))
        if self.is_final:
            headers.append(("x-should-retry", "false"))
        return headers


class ContextExceeded(ApiError):
    """400: a prompt of `prompt_tokens`, alone or with the answer asked for, is too much for a context of `limit`."""

    def __init__(self, message: str, param: str, limit: int, prompt_tokens: int) -> None:
        super().__init__(400, message, param=param, code="context_length_exceeded")
        self.limit = limit
        self.prompt_tokens = prompt_tokens


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _Body(msgspec.Struct):
    error: _Error


def encode_error(error: ApiError) -> bytes:
    """The JSON body of `error`; the same bytes are the data of an in-band event."""
    return msgspec.json.encode(_Body(_Error(error.message, error.kind, error.param, error.code)))


def invalid(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """400: the request can never be served as it is."""
    return ApiError(400, message, param=param, code=code)


def renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """The error, told of the parameter by the name that the client knows; `names` has it for ours."""
    name = names.get(error.param or "")
    if name is None or error.code == "unknown_parameter":  # the client did write what is unknown
        return error
    return ApiError(
        error.status,
        error.message.replace(f"'{error.param}'", f"'{name}'"),
        kind=error.kind,
        code=error.code,
        param=name,
        retry_after_s=error.retry_after_s,
        is_final=error.is_final,
        headers=error.extra_headers,
    )


def unsupported(param: str, why: str) -> ApiError:
    """400: a parameter of the API that this server cannot honour, so it does not pretend to."""
    return ApiError(400, f"'{param}' is not supported by this server: {why}", param=param, code="unsupported_parameter")


def context_length_exceeded(limit: int, prompt: int, completion: int | None, param: str) -> ContextExceeded:
    """400: more tokens than the model's context, in OpenAI's wording, which agents look for to shorten the prompt.

    `completion` is the max_tokens asked for, None when the prompt alone is too long.
    """
    yours, noun = (f"your {param}", f"the {param}") if param in ("messages", "prompt") else (f"'{param}'",) * 2
    if completion is None:
        given = f"{yours} resulted in {prompt} tokens"
        advice = f"Please reduce the length of {noun}."
    else:
        given = f"you requested {prompt + completion} tokens ({prompt} in {noun}, {completion} in the completion)"
        advice = f"Please reduce the length of {noun} or completion."
    message = f"This model's maximum context length is {limit} tokens. However, {given}. {advice}"
    return ContextExceeded(message, param, limit, prompt)


def model_not_found(name: str, served: Iterable[str]) -> ApiError:
    """404: a model that is not served here; says which are."""
    names = sorted(served)
    listed = ", ".join(f"'{known}'" for known in names) or "nothing"
    message = f"The model '{shown(name)}' does not exist. Served here: {listed}.{did_you_mean(name, names)}"
    return ApiError(404, message, param="model", code="model_not_found")


def rate_limited(message: str, retry_after_s: float) -> ApiError:
    """429: the queue is full; the same request may succeed later."""
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after_s=retry_after_s)


def unavailable(message: str, retry_after_s: float) -> ApiError:
    """503: the server, or the engine behind it, takes no work now."""
    return ApiError(503, message, kind="server_error", code="service_unavailable", retry_after_s=retry_after_s)


def timed_out(message: str) -> ApiError:
    """504: the answer's time is used up. Asking again costs as much again, so clients are told not to by themselves."""
    return ApiError(504, message, kind="server_error", code="timeout", is_final=True)


def failed(message: str) -> ApiError:
    """500: our fault."""
    return ApiError(500, message, kind="server_error", code="internal_error")


def shown(name: str) -> str:
    """A name of the client's choice as a message repeats it: only its beginning if it is long."""
    return name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest known name, led by a space; empty when nothing is close."""
    if len(name) > _SHOWN_CHARS:
        return ""  # comparing takes time in proportion, and clients choose the length
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
