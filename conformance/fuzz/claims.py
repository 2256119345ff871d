"""What must be true of every answer, whatever was sent."""

import json
from typing import Any

from conformance.fuzz.exchange import Answer, Sending

# 500 and 502 are faults; 503 and 504 are what a server says that is full or too slow.
_STATUSES = frozenset((100, 200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 503, 504))
# Said before it is known what is asked for.
_OF_HTTP = ("invalid_http", "head_too_large", "request_timeout")
_OF_TGI = ("/", "/generate", "/generate_stream", "/info")
_NO_JSON = ("text/plain", "application/octet-stream")
_PAGE = "/dashboard"
_OF_PAGE = ("text/html", "text/css", "text/javascript", "image/svg+xml", "text/plain")


class Fault(Exception):
    """The server did what it must not."""


def check(sending: Sending, answer: Answer) -> None:
    """Raise `Fault` unless the answer is one that a client of the API understands."""
    if answer.status == 0:
        if answer.is_awaited:
            raise Fault(f"the connection was closed without an answer {answer.lost_by}")
        return
    if answer.status == 308 and _path(sending) == f"{_PAGE}/":
        return
    if answer.status not in _STATUSES:
        raise Fault(f"status {answer.status}: {answer.body[:500]!r}")
    if sending.method == "HEAD" or answer.status == 100:
        return
    if not answer.is_complete:
        if answer.is_awaited and not _is_error_in_stream(answer):
            raise Fault(f"the answer with status {answer.status} broke off: {answer.body[-300:]!r}")
        return
    _check_body(sending, answer)


def _check_body(sending: Sending, answer: Answer) -> None:
    kind = answer.headers.get("content-type", "")
    if answer.status >= 400:
        if not kind.startswith("application/json"):
            raise Fault(f"an error of the type {kind!r}: {answer.body[:300]!r}")
        _check_error(sending, _json(answer.body))
    elif kind.startswith("text/event-stream"):
        for value in _events(answer.body):
            _check_event(value)
    elif kind.startswith("application/json"):
        _json(answer.body)
    elif not kind.startswith(_OF_PAGE if _is_of_page(sending) else _NO_JSON):
        raise Fault(f"an answer of the type {kind!r}")


def _path(sending: Sending) -> str:
    return sending.target.partition("?")[0]


def _is_of_page(sending: Sending) -> bool:
    return _path(sending) == _PAGE or _path(sending).startswith(f"{_PAGE}/static/")


def _check_error(sending: Sending, body: Any) -> None:
    """An error in the words of the API that was asked: Anthropic's, TGI's, or else OpenAI's."""
    error = body.get("error") if isinstance(body, dict) else None
    if _path(sending) in _OF_TGI and isinstance(error, str) and error:
        if body.keys() != {"error", "error_type"}:
            raise Fault(f"an error with other fields: {body!r}")
        return
    if not isinstance(error, dict) or not isinstance(error.get("message"), str) or not error["message"]:
        raise Fault(f"no error that a client can read: {body!r}")
    is_anthropic = body.get("type") == "error"
    is_of_http = error.get("code") in _OF_HTTP
    if _path(sending) in ("/v1/messages", "/v1/messages/count_tokens") and not (is_anthropic or is_of_http):
        raise Fault(f"an error of another API: {body!r}")
    if not is_anthropic and error.keys() != {"message", "type", "param", "code"}:
        raise Fault(f"an error with other fields: {body!r}")
    if error.get("code") == "internal_error" or error.get("type") == "api_error":
        raise Fault(f"a failure of the server: {body!r}")


def _check_event(value: Any) -> None:
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and (error.get("code") == "internal_error" or error.get("type") == "api_error"):
        raise Fault(f"the stream told of a failure: {value!r}")


def _is_error_in_stream(answer: Answer) -> bool:
    """Whether the stream was cut after an error, which leaves it without an end on purpose."""
    events = _events(answer.body) if answer.headers.get("content-type", "").startswith("text/event-stream") else []
    for value in events:
        _check_event(value)
    last = events[-1] if events else None
    return isinstance(last, dict) and ("error" in last or last.get("type") in ("error", "response.failed"))


def _events(body: bytes) -> list[Any]:
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [None if line == "[DONE]" else _json(line.encode()) for line in lines]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Fault(f"no JSON ({error}): {data[:300]!r}") from None
