"""What the HTTP client raises, as failures of an upstream; the only place that knows both."""

import contextlib
from collections.abc import Iterator

from servery.http import errors as http
from servery.upstream.failure import Deadline, Kind, UpstreamFailure

_DEADLINES = {
    http.Limit.CONNECT: Deadline.CONNECT,
    http.Limit.HEAD: Deadline.FIRST_TOKEN,
    http.Limit.FIRST_PIECE: Deadline.FIRST_TOKEN,
    http.Limit.SEND: Deadline.STALL,
    http.Limit.STALL: Deadline.STALL,
    http.Limit.TOTAL: Deadline.TOTAL,
}


def failure(error: http.HttpError, deployment: str) -> UpstreamFailure:
    """`error` of an exchange with a deployment."""
    message = f"the deployment '{deployment}': {error}"
    if isinstance(error, http.TimedOut) and error.limit in _DEADLINES:
        return UpstreamFailure(Kind.TIMEOUT, message, deadline=_DEADLINES[error.limit])
    return UpstreamFailure(_kind(error), message)


@contextlib.contextmanager
def http_failures(deployment: str) -> Iterator[None]:
    """Inside, errors of the HTTP client become failures of this deployment."""
    try:
        yield
    except http.HttpError as error:
        raise failure(error, deployment) from error


def _kind(error: http.HttpError) -> Kind:
    if isinstance(error, http.QueueFull | http.TimedOut):  # the time to wait for a connection
        return Kind.OVERLOADED
    if isinstance(error, http.Malformed | http.BodyTooLarge):
        return Kind.MALFORMED
    if isinstance(error, http.Disconnected):
        return Kind.RESET if error.nothing_received else Kind.CUT
    return Kind.REFUSED
