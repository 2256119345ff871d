"""The requests in the file of a batch, and what is wrong with it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from servery.wire.batches import BatchError, BatchLine, decode_line
from servery.wire.errors import ApiError

MAX_LINES = 50_000
_MAX_ERRORS = 50


def checked(path: Path, endpoint: str) -> tuple[int, list[BatchError]]:
    """How many requests a file has, and what is wrong with it; raises `OSError`."""
    errors: list[BatchError] = []
    seen: set[str] = set()
    with contextlib.suppress(_TooManyErrors):
        for number, text in _numbered(path):
            try:
                line = decode_line(text, endpoint)
            except ApiError as error:
                _add(
                    errors,
                    BatchError(code=error.code or "invalid", message=error.message, line=number, param=error.param),
                )
                continue
            if line.custom_id in seen:
                message = f"The custom_id '{line.custom_id[:100]}' is that of an earlier line; each needs its own."
                _add(errors, BatchError(code="duplicate_custom_id", message=message, line=number, param="custom_id"))
            seen.add(line.custom_id)
            if len(seen) > MAX_LINES:
                message = f"The file has more than {MAX_LINES} requests; split it."
                return 0, [BatchError(code="too_many_requests", message=message)]
    if not seen and not errors:
        errors.append(
            BatchError(code="empty_file", message="The file has no requests; write one JSON object per line.")
        )
    return len(seen), errors


class _TooManyErrors(Exception):
    """Enough is known."""


def _add(errors: list[BatchError], error: BatchError) -> None:
    errors.append(error)
    if len(errors) == _MAX_ERRORS:
        raise _TooManyErrors


def lines(path: Path, endpoint: str) -> Iterator[BatchLine]:
    """The requests of a file that has been checked."""
    for _, text in _numbered(path):
        yield decode_line(text, endpoint)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, text.strip()
