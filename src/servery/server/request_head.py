"""What a request's head says, found once for all requests of a connection whose heads say the same but for their length."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from servery.server.auth import digest_in
from servery.server.types import Scope
from servery.telemetry.traces.trace import Onward
from servery.upstream.ask import PASSED_HEADERS
from servery.wire.errors import ApiError

# As ids of requests are: both end up in the same tables, and in logs.
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_HEADERS = (b"traceparent", b"tracestate")


class RequestHead:
    """The fields, names in lower case; of headers that occur twice the last counts. Nothing here is about the length."""

    def __init__(self, fields: Mapping[bytes, bytes], scope: Scope) -> None:
        self._fields = fields
        self.query: bytes = scope.get("query_string", b"")
        client = scope.get("client")
        self.peer: str | None = client[0] if client else None

    @cached_property
    def given_id(self) -> str | None:
        """The client's id for the request, if it can stand in logs and headers."""
        given = self._fields.get(b"x-request-id", b"")
        return given.decode("ascii") if _SANE_ID.fullmatch(given) else None

    @cached_property
    def key_digest(self) -> bytes | None:
        """The digest of the key that it carries; None if it has none."""
        return digest_in(self._fields)

    @cached_property
    def is_plain_json(self) -> bool:
        """Whether the body is said to be JSON in the words that nearly all use."""
        return self._fields.get(b"content-type") == b"application/json" and b"content-encoding" not in self._fields

    @cached_property
    def task(self) -> str | None:
        """What the client calls the piece of work that this is part of; raises `ApiError` (400) for what is no name of one."""
        given = self._fields.get(b"x-servery-task")
        if given is not None and not _SANE_ID.fullmatch(given):
            message = "The header 'x-servery-task' must have 1 to 128 letters, digits or any of . _ : / + = @ -"
            raise ApiError(400, message, code="invalid_value", param="x-servery-task")
        return None if given is None else given.decode("ascii")

    @cached_property
    def onward(self) -> Onward | None:
        """What the client says of its own trace."""
        fields = self._fields
        if b"traceparent" not in fields:
            return None
        return Onward(0, tuple((name, fields[name]) for name in _TRACE_HEADERS if name in fields))

    @cached_property
    def passed(self) -> Sequence[tuple[str, str]]:
        """The headers that go on to an upstream which speaks the client's API."""
        given = [(name, self._fields.get(name.encode())) for name in PASSED_HEADERS]
        return [(name, value.decode("latin-1")) for name, value in given if value is not None]
