"""What can go wrong between a client and a server, each with the word (`kind`) under which a report counts it.

ClientError
├── BadAddress        the address cannot be read
├── BadTrace          a file of requests cannot be read
├── Unreachable       no connection: nothing listens, no such host, TLS refused
├── OutOfConnections  this machine has no file descriptor or port left for a connection: the client's fault
├── WrongStatus       an HTTP status other than 2xx, with the server's own words
├── InBandError       an error event inside a stream that had begun with 200
├── CutShort          the connection closed before the answer was complete
├── Malformed         bytes that are no HTTP, no JSON, or not the shape the API promises
└── TimedOut          no complete answer within the time given
"""


class ClientError(Exception):
    """Base of everything the client raises; `kind` is its word in a report."""

    kind = "error"


class BadAddress(ClientError):
    """The address cannot be read."""

    kind = "bad_address"


class BadTrace(ClientError):
    """A file of requests cannot be read."""

    kind = "bad_trace"


class Unreachable(ClientError):
    """No connection could be made."""

    kind = "unreachable"


class OutOfConnections(ClientError):
    """This machine has no file descriptor or port left for a connection; the server has no part in that."""

    kind = "out_of_connections"


class WrongStatus(ClientError):
    """The server answered with a status other than 2xx; `code` and `param` are the API's, where it gave them."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = f"http_{status}"


class InBandError(ClientError):
    """The stream began well and then carried an error event."""

    kind = "in_band_error"


class CutShort(ClientError):
    """The connection closed before the answer was complete."""

    kind = "cut_short"


class Malformed(ClientError):
    """The answer is no HTTP, no JSON, or not the shape that the API promises."""

    kind = "malformed"


class TimedOut(ClientError):
    """The answer was not complete within the time given."""

    kind = "timeout"
