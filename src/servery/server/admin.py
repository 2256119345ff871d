"""Who may change what is served: load, unload and put models to sleep, load and unload adapters. One door for all.

The default is no. With admin keys it takes one of them. Where there are no keys at all and the server listens on this
machine only, programs of this machine may; a page in a browser of this machine may not, nor may anybody behind a proxy,
who would look as if he were of this machine.
"""

import ipaddress
from collections.abc import Iterable

from servery.server.auth import KeyRing, check_one_key
from servery.server.request import Request
from servery.upstream.caller import ANYBODY, Caller
from servery.wire.errors import ApiError

_HOW = "start the server with --admin-key, or with the key in $SERVERY_ADMIN_KEY"
# Sent by browsers, and by proxies, and by nobody else.
_BROWSERS = (b"origin", b"referer", b"sec-fetch-site")
_PROXIES = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip")


class AdminDoor:
    """Lets in who may change what is served; `admin_keys` are asked for, those of `users` do not do, `host` is listened on."""

    def __init__(self, admin_keys: Iterable[str], users: KeyRing, host: str) -> None:
        self._admins = KeyRing(admin_keys)
        self._users = users
        self._is_local = is_loopback(host)

    @property
    def admins(self) -> KeyRing:
        """Who has an admin key."""
        return self._admins

    def is_at_home(self, request: Request) -> bool:
        """Whether nobody needs a key, and the request is of this machine: of a program, or of the server's own page."""
        is_near = self._is_local and request.peer is not None and is_loopback(request.peer)
        if not (self._admins.is_empty and self._users.is_empty and is_near):
            return False
        return is_addressed_here(request) and not any(header in request.headers for header in _PROXIES)

    def renew(self, admin_keys: Iterable[str]) -> None:
        """From here on ask for these keys."""
        self._admins.renew(admin_keys)

    def check(self, request: Request) -> Caller:
        """Who it is, nobody known where no key is needed; raises `ApiError`: 401 without a key, else 403."""
        if not self._admins.is_empty:
            check_one_key(request.headers)
            if self._users.are_in(request.headers) and not self._admins.are_in(request.headers):
                raise _forbidden("This takes an admin key (--admin-key); the API key that was given is none.")
            return self._admins.check(request.headers)
        self._users.check(request.headers)
        if not self._users.is_empty:
            raise _forbidden(f"An API key does not allow this, and there is no admin key; {_HOW}.")
        if not self._is_local or request.peer is None or not is_loopback(request.peer):
            raise _forbidden(f"Without keys only programs of this machine may do this, over 127.0.0.1; {_HOW}.")
        for header in (*_BROWSERS, *_PROXIES):
            if header in request.headers:
                who = "a browser" if header in _BROWSERS else "a proxy"
                raise _forbidden(f"The header '{header.decode()}' says that {who} sent this; that takes a key: {_HOW}.")
        return ANYBODY


def is_addressed_here(request: Request) -> bool:
    """Whether the host that the client asked for is this machine, so that no other site's name was made to lead here."""
    host = request.headers.get(b"host", b"").decode("latin-1")
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, kind="permission_error", code="admin_only")
