"""A disk that takes only small files: the system refuses to let any grow further."""

import contextlib
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def files_up_to(limit_bytes: int) -> Iterator[None]:
    """Writing beyond that raises `OSError` (EFBIG), after as much as fits; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
