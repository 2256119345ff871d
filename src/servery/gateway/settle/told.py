"""What a client is told of a failure that nobody could mend."""

from servery.upstream.failure import Kind, UpstreamFailure
from servery.wire.errors import ApiError

# What an upstream thinks of this gateway's key or of its own configuration is no word on the client's request.
_OURS = (401, 402, 403, 404)


def told(failure: UpstreamFailure) -> ApiError:
    """The upstream's own error where it is about the request, else one that names nothing of the deployment's."""
    error = failure.error
    if failure.kind is not Kind.STATUS or error.status not in _OURS:
        return error
    message = f"The upstream refused this server's own request with status {error.status}; its operator has to look."
    return ApiError(502, message, kind="server_error", code="upstream_refused", is_final=error.is_final)
