"""What can go wrong on the way to a server and back. Every message names the origin, never a credential.

An error tells two things that a caller needs in order to try again: `nothing_received` (no byte of an answer came) and
`request_written` (bytes of the request may have reached the server). `kind` is a short word for a metric's label.
"""

from enum import StrEnum
from typing import ClassVar


class Limit(StrEnum):
    """Which deadline passed."""

    QUEUE = "queue"  # for a free connection
    CONNECT = "connect"  # look-up, TCP, proxy and TLS together
    SEND = "send"  # the server takes no more bytes of the request
    HEAD = "head"  # from the request having been written to a complete head
    FIRST_PIECE = "first piece"  # from the request having been written to the first bytes of the body
    STALL = "stall"  # silence between two pieces of the body
    TOTAL = "total"  # the whole exchange


class HttpError(Exception):
    """An exchange that gave no complete, acceptable answer. `origin` is `scheme://host:port`."""

    kind: ClassVar[str] = "http"

    def __init__(
        self, message: str, *, origin: str = "", nothing_received: bool = True, request_written: bool = False
    ) -> None:
        super().__init__(message)
        self.origin = origin
        self.nothing_received = nothing_received
        self.request_written = request_written


class BadUrl(HttpError, ValueError):
    """An address that this client cannot use."""

    kind = "bad_url"


class BadRequest(HttpError, ValueError):
    """A request that must not be sent: a header with a line break, a method that is no word, a header of the client's own."""

    kind = "bad_request"


class ClientClosed(HttpError):
    """The client was closed, or the origin given up, while the request waited."""

    kind = "client_closed"


class QueueFull(HttpError):
    """Every connection to the origin is busy, and as many requests as allowed wait for one."""

    kind = "queue_full"


class Unreachable(HttpError):
    """No connection could be made: the name is unknown, nobody listens, the proxy refuses."""

    kind = "unreachable"


class UnknownHost(Unreachable):
    """The resolver gives no address for the name."""

    kind = "unknown_host"


class Untrusted(Unreachable):
    """The TLS handshake failed: a certificate that is not trusted or not for this host, or no TLS at all."""

    kind = "untrusted"


class ProxyRefused(Unreachable):
    """The proxy would not open a tunnel to the origin."""

    kind = "proxy_refused"


class TimedOut(HttpError):
    """A deadline passed. `limit` says which, `limit_s` how long it was."""

    kind = "timed_out"

    def __init__(
        self,
        message: str,
        *,
        limit: Limit,
        limit_s: float,
        origin: str = "",
        nothing_received: bool = True,
        request_written: bool = False,
    ) -> None:
        super().__init__(message, origin=origin, nothing_received=nothing_received, request_written=request_written)
        self.limit = limit
        self.limit_s = limit_s


class Disconnected(HttpError):
    """The server closed or reset the connection before its answer was complete.

    With `is_stale` the connection had been kept alive and was closed before any byte of this answer, and before the whole
    request was sent or at once after it (`ClientLimits.crossed_s`): the server's idle limit and the request crossed on the
    way.
    """

    kind = "disconnected"

    def __init__(
        self,
        message: str,
        *,
        origin: str = "",
        nothing_received: bool = True,
        request_written: bool = False,
        is_stale: bool = False,
    ) -> None:
        super().__init__(message, origin=origin, nothing_received=nothing_received, request_written=request_written)
        self.is_stale = is_stale


class Malformed(HttpError):
    """Bytes that are no acceptable HTTP/1.1 answer; the connection is closed."""

    kind = "malformed"


class HeadTooLarge(Malformed):
    """The head, a chunk's extensions or the trailers are over the limit."""

    kind = "head_too_large"


class UnsupportedEncoding(Malformed):
    """The body is compressed although `identity` was asked for."""

    kind = "unsupported_encoding"


class BodyTooLarge(HttpError):
    """The body is longer than the reader allows; the connection is closed."""

    kind = "body_too_large"
