"""What OpenAI-compatible servers say when they do not answer, in all the shapes that they say it in, as a refusal."""

from collections.abc import Mapping
from typing import Any

import msgspec

from servery.upstream.failure import UpstreamFailure
from servery.upstream.refusal import Refusal, excerpt, retry_after_s
from servery.wire.errors import ApiError

_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_TOO_LONG = (
    "maximum context length",  # OpenAI, vLLM
    "longer than the model's context length",  # SGLang
    "longer than the maximum model length",  # vLLM
    "exceeds the available context size",  # llama.cpp
    "exceeds the context length",  # Ollama
    "`inputs` must have less than",  # TGI
    "`inputs` tokens + `max_new_tokens`",
    "max_seq_len",  # TensorRT-LLM
    "max_num_tokens",
)
_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")


def refused(status: int, headers: Mapping[str, str], body: bytes, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an answer with an error status."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    return _refusal(status, value, excerpt(body), retry_after_s(headers)).raised(deployment)


def event_error(value: Any, deployment: str) -> ApiError | UpstreamFailure:
    """The exception for an error in the place of an answer or of a piece of one; its code may be a status."""
    code = value.get("code") if isinstance(value, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return _refusal(status, {"error": value}, excerpt(msgspec.json.encode(value)), None).raised(deployment)


def _refusal(status: int, value: Any, text: str, retry_after: float | None) -> Refusal:
    fields = _fields(value)
    message, code, kind = _message(fields, text), _word(fields.get("code")), _word(fields.get("type"))
    if code is None and status < 500 and _is_too_long(message, kind):
        code = "context_length_exceeded"
    return Refusal(
        status=status,
        message=message or f"The server answered {status}.",
        code=code,
        kind=kind,
        param=_word(fields.get("param")),
        retry_after_s=retry_after,
        is_quota=code in _QUOTA or kind in _QUOTA,
    )


def _fields(value: Any) -> Mapping[str, Any]:
    """The error's own object: under "error" for most, the whole body for older vLLM and SGLang, only text for TGI."""
    if not isinstance(value, dict):
        return {}
    error = value.get("error", value)
    if isinstance(error, str):
        return {"message": error, "type": value.get("error_type")}
    return error if isinstance(error, dict) else {}


def _message(fields: Mapping[str, Any], text: str) -> str:
    for name in ("message", "detail", "msg"):
        if isinstance(found := fields.get(name), str) and found:
            return found
    return text


def _word(value: Any) -> str | None:
    """Codes that are numbers only repeat the status."""
    return value if isinstance(value, str) and value else None


def _is_too_long(message: str, kind: str | None) -> bool:
    return kind in _TOO_LONG_CODES or any(words in message for words in _TOO_LONG)
