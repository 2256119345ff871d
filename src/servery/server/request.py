"""A request as it comes in: its head at once, its body bounded."""

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from servery.server.alarm import Alarm
from servery.server.interrupt import ClientGone
from servery.server.request_head import RequestHead
from servery.server.types import Receive, Scope
from servery.wire.errors import ApiError


class Line(Protocol):
    """A connection that tells of its client by itself; `task` answers the request, which may use the connection's `alarm`."""

    task: "asyncio.Task[None] | None"

    @property
    def alarm(self) -> Alarm:
        """As above."""

    def watch(self, call: Callable[[], None]) -> None:
        """Have `call` called when the client goes before its answer is complete."""

    def whole(self) -> bytes | None:
        """The request's whole body, if all of it has come and nobody has read of it."""


# A body over the limit is read on, and thrown away, up to this many times the limit: a connection that is closed while
# its client is still sending is reset, and the client never reads why.
_DISCARD_FACTOR = 16
# The limit that whoever runs the server chooses.
SET = "this server's limit of {bytes} bytes (--max-body)"
_chance = random.Random(secrets.randbits(256))
# Processes that are forks of one must not go on alike: their ids would be the same.
os.register_at_fork(after_in_child=lambda: _chance.seed(secrets.randbits(256)))


class Request:
    """One HTTP request. Header names are in lower case; of headers that occur twice the last counts.

    `peer` is the address that the connection came from, if that is known. Without `line` only `receive` tells when the
    client goes.
    """

    __slots__ = ("_line", "arrived_s", "head", "headers", "id", "method", "path", "peer", "query", "receive")

    def __init__(self, scope: Scope, receive: Receive, arrived_s: float, line: Line | None = None) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Mapping[bytes, bytes] = scope["fields"] if "fields" in scope else dict(scope["headers"])
        if "head" not in scope:  # a connection keeps it for the next request with the same scope
            scope["head"] = RequestHead(self.headers, scope)
        head: RequestHead = scope["head"]
        self.head = head
        self.query = head.query
        self.peer = head.peer
        self.receive = receive
        self._line = line
        self.arrived_s = arrived_s
        self.id = head.given_id or f"req_{_chance.getrandbits(96):024x}"

    def watch(self, gone: Callable[[], None]) -> "asyncio.Task[None] | None":
        """From here on `gone` is called when the client closes its connection; the body must have been read.

        Where a task has to find that out, it is to be cancelled when nobody wants to know any more.
        """
        if self._line is None:
            return asyncio.create_task(self._until_gone(gone))
        self._line.watch(gone)
        return None

    def whole(self, max_bytes: int) -> bytes | None:
        """The body, which says that it is JSON, if all of it has come; raises `ApiError` as `json_body` does."""
        if not self.head.is_plain_json:
            self._check_content_type()
        body = None if self._line is None else self._line.whole()
        if body is None:
            self._check_length(max_bytes, SET)
        elif len(body) > max_bytes:
            raise _too_large(max_bytes, SET, is_closing=False)
        return body

    async def json_body(self, max_bytes: int, limit: str = SET) -> bytes:
        """The body of a request that says it is JSON.

        Raises `ApiError` (415 for another content type, 413 over `max_bytes`, which `limit` tells of), `ClientGone` when
        the connection is lost.
        """
        self._check_content_type()
        return await self.body(max_bytes, limit)

    async def body(self, max_bytes: int, limit: str = SET) -> bytes:
        """The body, whatever it is; raises as `json_body` for one that is too large."""
        self._check_length(max_bytes, limit)
        return await self._read(max_bytes, limit)

    def _check_content_type(self) -> None:
        if self.head.is_plain_json:
            return
        given = self.headers.get(b"content-type", b"application/json").decode("latin-1")
        media, _, parameters = given.partition(";")
        if media.strip().lower() != "application/json":
            advice = "send 'application/json' (curl: -H 'Content-Type: application/json')"
            raise ApiError(415, f"The Content-Type is {given[:80]!r}; {advice}.", code="unsupported_media_type")
        charset = parameters.lower().replace('"', "").partition("charset=")[2].strip()
        if charset not in ("", "utf-8", "utf8"):
            raise ApiError(415, f"The charset is {charset[:40]!r}; JSON is UTF-8.", code="unsupported_media_type")
        encoding = self.headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        if encoding != "identity":
            message = f"The Content-Encoding is {encoding[:40]!r}; send the body uncompressed."
            raise ApiError(415, message, code="unsupported_media_type")

    def _check_length(self, max_bytes: int, limit: str) -> None:
        """Refuse a body that is declared too large, unless it is under way and soon over."""
        digits = self.headers.get(b"content-length", b"0")
        length = int(digits[:20]) if digits.isdigit() else 0
        waits = self.headers.get(b"expect", b"").lower() == b"100-continue"
        if length > max_bytes and (waits or length > _DISCARD_FACTOR * max_bytes):
            raise _too_large(max_bytes, limit, is_closing=True)

    async def _read(self, max_bytes: int, limit: str) -> bytes:
        body = bytearray()
        received = 0
        while True:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            received += len(event.get("body", b""))
            if received <= max_bytes:
                body += event.get("body", b"")
            is_over = not event.get("more_body", False)
            if received > max_bytes and (is_over or received > _DISCARD_FACTOR * max_bytes):
                raise _too_large(max_bytes, limit, is_closing=not is_over)
            if is_over:
                return bytes(body)

    async def _until_gone(self, gone: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        gone()


def _too_large(max_bytes: int, limit: str, *, is_closing: bool) -> ApiError:
    message = f"The request body is larger than {limit.format(bytes=max_bytes)}."
    headers = [("connection", "close")] if is_closing else []
    return ApiError(413, message, code="request_too_large", headers=headers)
