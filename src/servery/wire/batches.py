"""`/v1/batches`: the request, the batch as clients see it, and the lines of its files."""

from typing import Any, Literal

import msgspec

from servery.wire.body import decode
from servery.wire.errors import ApiError, encode_error, shown

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The requests in a file, each to be sent to one endpoint."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a batch's file; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is wrong with a batch's file, up to a number."""

    data: list[BatchError]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """How many requests a batch has, and what became of them."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch; times are in Unix seconds."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str = "24h"
    status: str = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    metadata: dict[str, str] | None = None


class BatchLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request of a batch; `body` is left as it is until its turn."""

    custom_id: str
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


_REQUEST = msgspec.json.Decoder(BatchRequest)
_LINE = msgspec.json.Decoder(BatchLine)


def decode_batch_request(body: bytes) -> BatchRequest:
    """A request for a batch; raises `ApiError`."""
    return decode(body, _REQUEST)


def decode_line(line: bytes, endpoint: str) -> BatchLine:
    """One line of a batch's file; raises `ApiError`."""
    try:
        request = decode(line, _LINE)
    except ApiError as error:
        message = error.message.replace("The request body", "The line")
        raise ApiError(error.status, message, code=error.code, param=error.param) from None
    if not request.custom_id:
        raise ApiError(
            400, "'custom_id' is empty; every request needs its own.", param="custom_id", code="invalid_value"
        )
    if request.url != endpoint:
        message = f"'url' is '{shown(request.url)}', but the batch is for '{endpoint}'."
        raise ApiError(400, message, param="url", code="mismatched_endpoint")
    return request


def encode_batch(batch: Batch) -> bytes:
    """The batch's description."""
    return msgspec.json.encode(batch)


def encode_result(result_id: str, custom_id: str, *, request_id: str, status: int, body: bytes) -> bytes:
    """The line of a request that was answered, with whatever status."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _line({"id": result_id, "custom_id": custom_id, "response": response, "error": None})


def encode_refused(result_id: str, custom_id: str, request_id: str, error: ApiError) -> bytes:
    """The line of a request that was refused or that failed."""
    body = encode_error(error)
    return encode_result(result_id, custom_id, request_id=request_id, status=error.status, body=body)


def encode_unanswered(result_id: str, custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that was never sent."""
    error = {"code": code, "message": message}
    return _line({"id": result_id, "custom_id": custom_id, "response": None, "error": error})


def _line(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"
