"""What the HTTP client raises, as failures of an upstream; the only place that knows both."""

import re

from servery.http import errors as http
from servery.upstream.failure import Deadline, Kind, UpstreamFailure

# What was read where none of it was expected may be a piece of an answer.
_BYTES = re.compile(r"""\bb(['"]).*\1""", re.DOTALL)
_DEADLINES = {
    http.Limit.CONNECT: Deadline.CONNECT,
    http.Limit.HEAD: Deadline.FIRST_TOKEN,
    http.Limit.FIRST_PIECE: Deadline.FIRST_TOKEN,
    http.Limit.SEND: Deadline.STALL,
    http.Limit.STALL: Deadline.STALL,
    http.Limit.TOTAL: Deadline.TOTAL,
}
_TOLD = {
    Kind.OVERLOADED: "is asked too much at the moment",
    Kind.MALFORMED: "gave an answer that cannot be used",
    Kind.RESET: "closed the connection before it answered",
    Kind.CUT: "closed the connection before its answer was complete",
    Kind.REFUSED: "cannot be reached",
}


def failure(error: http.HttpError, deployment: str) -> UpstreamFailure:
    """`error` of an exchange with a deployment."""
    message, kind = f"the deployment '{deployment}': {error}", _kind(error)
    told = f"The deployment '{deployment}' {_TOLD[kind]}."  # the error itself names addresses
    if isinstance(error, http.TimedOut) and error.limit in _DEADLINES:
        told = f"The deployment '{deployment}' took longer than it may ({_DEADLINES[error.limit].value})."
        return UpstreamFailure(Kind.TIMEOUT, message, deadline=_DEADLINES[error.limit], told=told)
    return UpstreamFailure(kind, message, told=told, logged=_BYTES.sub("[bytes]", message))


def _kind(error: http.HttpError) -> Kind:
    if isinstance(error, http.QueueFull | http.TimedOut):  # the time to wait for a connection
        return Kind.OVERLOADED
    if isinstance(error, http.Malformed | http.BodyTooLarge):
        return Kind.MALFORMED
    if isinstance(error, http.Disconnected):
        return Kind.RESET if error.nothing_received else Kind.CUT
    return Kind.REFUSED
