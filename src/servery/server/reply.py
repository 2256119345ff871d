"""An answer on its way out: whole, or as a stream whose head waits for its first event."""

import asyncio
from collections.abc import Awaitable, Iterable
from pathlib import Path

from servery.server.outlet import Outlet
from servery.wire.dialect import OPENAI, Dialect
from servery.wire.errors import ApiError

_STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),
)
# How long a client that reads nothing may delay the end of its own answer.
_LAST_WORDS_S = 2.0
_FILE_BYTES = 256 << 10  # read and sent at a time


class Reply:
    """Writes one response, in the words of `dialect`. The status is final with the first byte; an error after that goes in-band."""

    def __init__(self, outlet: Outlet, request_id: str, dialect: Dialect = OPENAI) -> None:
        self._outlet = outlet
        self._request_id = request_id
        self._dialect = dialect
        self._comment: asyncio.Task[None] | None = None
        self.headers: list[tuple[str, str]] = []  # of the response, besides those that belong to its kind
        self.status: int | None = None
        self.error: ApiError | None = None
        self.is_complete = False
        self._is_stream = False

    @property
    def is_started(self) -> bool:
        """Whether the status is out and cannot be changed."""
        return self.status is not None

    def whole(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
    ) -> Awaitable[None]:
        """Send a complete response."""
        length = ("content-length", str(len(body)))
        self._start(status, (("content-type", content_type), length, *headers))
        self.is_complete = True
        return self._outlet.write(body, is_last=True)

    async def file(self, path: Path, size_bytes: int, content_type: str = "application/octet-stream") -> None:
        """Send a file, a piece at a time."""
        with path.open("rb") as file:
            headers = (("content-type", content_type), ("content-length", str(size_bytes)))
            self._start(200, headers)
            while data := file.read(_FILE_BYTES):
                await self._write(data)
            await self._write(b"", is_last=True)

    def stream(self, events: bytes) -> Awaitable[None]:
        """Send whole events of a stream, after its head if they are the first."""
        if self._comment is not None:
            return self._stream_later(events)
        if self.status is None:
            self._is_stream = True
            self._start(200, _STREAM_HEADERS)
        return self._outlet.write(events, is_last=False)

    def stream_at_once(self, events: bytes) -> bool:
        """Send further events, unless a comment goes first or the client reads slower than they come; whether it did."""
        return self._comment is None and self._is_stream and self._outlet.write_at_once(events)

    async def _stream_later(self, events: bytes) -> None:
        await self._comment_sent()
        await self.stream(events)

    async def end_stream(self) -> None:
        """Say that the stream is complete."""
        await self._comment_sent()
        await self._write(self._dialect.done, is_last=True)

    def keep_alive(self) -> None:
        """Send a comment, by the way, in a stream that is silent; no further one while that is on its way."""
        if not self.is_complete and (self._comment is None or self._comment.done()):
            self._comment = asyncio.create_task(self._write_comment())

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, or cut a stream under way after one.

        Such a stream has neither [DONE] nor HTTP's own end: the server closes the connection of an answer left
        unfinished, so that nobody, a proxy's cache included, takes it for a whole one.
        """
        self.error = error
        if self.is_complete:
            return
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._fail(error)
        except TimeoutError:
            self.is_complete = True  # it reads nothing: the server closes the connection

    async def _fail(self, error: ApiError) -> None:
        await self._comment_sent()
        if not self.is_started:
            body = self._dialect.error(error, self._request_id)
            status = self._dialect.statuses.get(error.status, error.status)
            await self.whole(body, status=status, headers=error.headers)
        elif self._is_stream:
            await self._write(self._dialect.error_event(error, self._request_id))
            self.is_complete = True

    async def _comment_sent(self) -> None:
        """Let a comment on its way go first; to be cancelled here leaves it in peace."""
        if self._comment is not None:
            await asyncio.wait((self._comment,))
            self._comment = None

    async def _write_comment(self) -> None:
        if not self.is_started:
            self._is_stream = True
            self._start(200, _STREAM_HEADERS)
        await self._write(self._dialect.keep_alive)

    def _start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self.status = status
        self._outlet.begin(status, [*headers, *self.headers, (self._dialect.request_id_header, self._request_id)])

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        self.is_complete = is_last
        await self._outlet.write(data, is_last=is_last)
