"""Writing to a disk that may be full or broken."""

import contextlib
import logging
import os
from collections.abc import Iterator
from io import BufferedWriter, FileIO, RawIOBase
from pathlib import Path

from servery.wire.errors import ApiError

log = logging.getLogger(__name__)


def to_write(path: Path) -> BufferedWriter:
    """A file from its beginning, which is nobody's on this machine but the server's; raises `OSError`."""
    return os.fdopen(_made(path, os.O_WRONLY | os.O_TRUNC), "wb")


def to_append(path: Path) -> FileIO:
    """A file to read and to add to, without a buffer: the server's as well; raises `OSError`."""
    return os.fdopen(_made(path, os.O_RDWR | os.O_APPEND), "a+b", buffering=0)


def _made(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it has either its old content or all of the new; raises `OSError`."""
    part = path.with_suffix(".tmp")
    try:
        with to_write(part) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_all(file: RawIOBase, data: bytes) -> None:
    """Write all of `data` to a file without a buffer; raises `OSError`, with perhaps a part of it written."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


@contextlib.contextmanager
def disk_faults_told() -> Iterator[None]:
    """Raises `ApiError` (507) for an `OSError`, which is also logged: it is the operator who can mend it."""
    try:
        yield
    except OSError as error:
        log.error("the folder of --files cannot be written: %s", error)
        message = (
            f"The server could not write to its disk: {error.strerror or error}. Send it again when the server's "
            "operator has freed space, or mended what else is wrong with the folder of --files."
        )
        raise ApiError(507, message, kind="server_error", code="insufficient_storage", is_final=True) from error
