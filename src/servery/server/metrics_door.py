"""Who may read the metrics: they name every model and deployment and tell of everybody's requests, so no client's key does.

Where anybody is asked for a key at all, it takes one that was made for reading metrics, which does for nothing else, or an
admin's.
"""

from collections.abc import Iterable

from servery.server.auth import KeyRing, check_one_key
from servery.server.request import Request
from servery.wire.errors import ApiError


class MetricsDoor:
    """Lets in who has one of the `metrics_keys` or of `admin_keys`; whoever comes, where there are none and no `users`."""

    def __init__(self, metrics_keys: Iterable[str], admin_keys: Iterable[str], users: KeyRing) -> None:
        self._readers = KeyRing((*metrics_keys, *admin_keys))
        self._users = users

    def renew(self, metrics_keys: Iterable[str], admin_keys: Iterable[str]) -> None:
        """From here on ask for these keys."""
        self._readers.renew((*metrics_keys, *admin_keys))

    def check(self, request: Request) -> None:
        """Raise `ApiError`: 401 without a key or with none that is known, 403 with one that is a client's."""
        if not self._readers.is_empty:
            check_one_key(request.headers)
            if self._readers.are_in(request.headers):
                return
        self._users.check(request.headers)
        if not self._users.is_empty:
            message = (
                "The metrics take a metrics key (--metrics-key) or an admin key; the API key that was given is none."
            )
            raise ApiError(403, message, kind="permission_error", code="metrics_only")
        self._readers.check(request.headers)
