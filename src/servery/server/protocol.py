"""HTTP on a connection: uvicorn's httptools protocol, with bounds on the head and errors in JSON."""

from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from servery.server.joined_writes import JoinedWrites
from servery.server.lingering_close import LingeringClose
from servery.wire.errors import ApiError, encode_error

# Nginx allows 32 KiB in all and 8 KiB per line, Apache 100 fields, Node 16 KiB.
MAX_HEAD_BYTES = 32 << 10
MAX_FIELDS = 100
# How long a connection may take from its first byte, or from being opened, to a complete head.
HEAD_TIMEOUT_S = 15.0


class _HeadTooLarge(httptools.HttpParserError):
    pass


class BoundedProtocol(HttpToolsProtocol):
    """Refuses heads that are too large or too slow, and answers what is no HTTP as the API answers errors."""

    def connection_made(self, transport: Any) -> None:
        """A connection is opened: the first head is awaited."""
        self._is_receiving = False
        joined = JoinedWrites(transport, self.loop)
        self._lingering = LingeringClose(joined, self.loop, lambda: self._is_receiving)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._head_bytes = 0
        self._fields = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._head_timer.cancel()
        self._lingering.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; after the last answer nobody wants to know what they say."""
        if not self._lingering.is_lingering:
            self._is_receiving = True
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        self._is_receiving = True
        self._head_bytes = self._fields = 0
        self._head_timer.cancel()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_late)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        self._fields += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete; what is slow from here on is the application's business."""
        self._head_timer.cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_receiving = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP request, or one that is too large, gets one answer and no second chance."""
        if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
            limits = f"{MAX_HEAD_BYTES} bytes and {MAX_FIELDS} fields"
            self._refuse(ApiError(431, f"The request's head is larger than {limits}.", code="head_too_large"))
        else:
            self._refuse(ApiError(400, msg, code="invalid_http"))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or self._fields > MAX_FIELDS:
            raise _HeadTooLarge

    def _head_late(self) -> None:
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False  # the late head followed a request whose answer is under way: that one may end
        else:
            message = f"The request's head did not arrive within {HEAD_TIMEOUT_S:g} seconds."
            self._refuse(ApiError(408, message, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        body = encode_error(error)
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write((status + fields).encode("ascii") + body)
        self.transport.close()
