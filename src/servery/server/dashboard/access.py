"""Who may see the dashboard, and act there. The default is nobody.

With an admin key or a viewer key: whoever has one, as a session's cookie or, for programs, as a bearer token. Where there
are no keys at all and the server listens on this machine only, whoever sits at it, at an address that is this machine's:
he may ask the models anyway. Everywhere else the answer says what to start the server with.
"""

from servery.server.admin import AdminDoor
from servery.server.auth import KeyRing, check_one_key, given_key
from servery.server.dashboard.attempts import Attempts
from servery.server.dashboard.role import Role
from servery.server.dashboard.session import Session, Sessions
from servery.server.request import Request
from servery.upstream.caller import ANYBODY
from servery.wire.errors import ApiError

# Sent with what changes something: no other site's page can send it without asking this server first, which says no.
GUARD = b"x-servery-dashboard"
_FOREVER_S = 1e12


class Access:
    """Lets in by `sessions`; `door` knows the admin keys and the machine, `viewers` the keys of who may only look.

    A key that does not do is an attempt, whichever way it came, and of these there are only so many in a minute.
    """

    def __init__(self, door: AdminDoor, viewers: KeyRing, sessions: Sessions, attempts: Attempts) -> None:
        self._door = door
        self._viewers = viewers
        self._attempts = attempts
        self.sessions = sessions

    @property
    def asks_for_key(self) -> bool:
        """Whether there is a key to log in with."""
        return not (self._door.admins.is_empty and self._viewers.is_empty)

    async def look(self, request: Request) -> Session:
        """Who looks; raises `ApiError`: 401 if a key would help, 403 if not, 429 after too many keys that did not."""
        check_site(request)
        check_one_key(request.headers)
        address, key = request.peer or "", given_key(request.headers)
        wait_s = self._attempts.wait_s(address) if key else 0.0
        if key and not wait_s and (found := self.sessions.who(key.decode("latin-1"))) is not None:
            return Session(found[0], found[1].caller, _FOREVER_S)
        # A proxy in front may send a key of its own beside the page's cookie: that is no attempt.
        if (session := await self.sessions.find(request.headers.get(b"cookie", b""))) is not None:
            return session
        if not self.asks_for_key:
            if self._door.is_at_home(request):
                return Session(Role.LOCAL, ANYBODY, _FOREVER_S)
        elif wait_s:
            raise too_many_attempts(wait_s)
        elif key:
            self._attempts.fail(address)
        raise self._refusal()

    def check_attempts(self, request: Request) -> None:
        """Raise `ApiError` (429) where too many keys from this address, or from all, have not done."""
        if wait_s := self._attempts.wait_s(request.peer or ""):
            raise too_many_attempts(wait_s)

    def attempted(self, request: Request, *, has_failed: bool) -> None:
        """Somebody has tried a key."""
        if has_failed:
            self._attempts.fail(request.peer or "")
        else:
            self._attempts.succeed(request.peer or "")

    async def act(self, request: Request) -> Session:
        """Who acts, which a viewer may not; raises as `look`."""
        check_guard(request)
        session = await self.look(request)
        if not session.role.may_ask:
            raise _forbidden("A viewer key is for looking; this takes an admin key.", "viewer_only")
        return session

    def _refusal(self) -> ApiError:
        if self.asks_for_key:
            message = "Log in with an admin key or a viewer key, or send one: 'Authorization: Bearer YOUR_KEY'."
            return ApiError(401, message, code="login_required")
        message = (
            "There is no key to log in with. Start the server with --admin-key or --viewer-key (or $SERVERY_ADMIN_KEY, "
            "$SERVERY_VIEWER_KEY). Without any keys the dashboard is shown on this machine alone, at 127.0.0.1."
        )
        return _forbidden(message, "no_dashboard_key")


def check_site(request: Request) -> None:
    """Raise `ApiError` (403) for what another site's page had the browser send."""
    headers = request.headers
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        is_own = site in (b"same-origin", b"none")
    else:
        origin = headers.get(b"origin")
        is_own = origin is None or origin.partition(b"://")[2] == headers.get(b"host", b"")
    if not is_own:
        raise _forbidden("This is for the dashboard's own page; another site's page asked.", "cross_site")


def too_many_attempts(wait_s: float) -> ApiError:
    """429, with when the next attempt is heard."""
    wait = str(int(wait_s) + 1)
    message = f"Too many attempts have failed; the next is heard in {wait} s."
    return ApiError(429, message, code="too_many_attempts", headers=[("retry-after", wait)])


def check_guard(request: Request) -> None:
    """Raise `ApiError` (403) for what lacks the header that the dashboard's own page sends; see also `check_site`."""
    check_site(request)
    if request.headers.get(GUARD) != b"1":
        raise _forbidden(
            f"The header '{GUARD.decode()}: 1' is missing, which the dashboard's own page sends.", "cross_site"
        )


def _forbidden(message: str, code: str) -> ApiError:
    return ApiError(403, message, kind="permission_error", code=code)
