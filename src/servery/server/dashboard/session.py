"""Sessions of the dashboard: a signed note in a cookie, so that every worker knows it and a restart ends none.

It is signed with what is derived from the key that its holder logged in with: take the key away, and its sessions are
over. The derivation is slow (scrypt), because who has a cookie could try out keys against it as fast as he can.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from servery.server.auth import Admission, KeyRing
from servery.server.dashboard.ended import Ended
from servery.server.dashboard.role import Role
from servery.upstream.caller import Caller

LASTS_S = {Role.ADMIN: 12 * 3600.0, Role.VIEWER: 7 * 86_400.0}
_SHAPE = re.compile(r"(admin|viewer)\.([A-Za-z0-9_-]{1,64})\.(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    """Who looks, as what, and until when (Unix time)."""

    role: Role
    caller: Caller
    expires_s: float
    nonce: str = ""


class Sessions:
    """Begins, recognises and ends sessions of who has a key of `admins` or `viewers`, at a server of this port.

    `folder` is shared by the server's processes, if there are several. `wall` gives Unix time.
    """

    def __init__(
        self,
        admins: KeyRing,
        viewers: KeyRing,
        *,
        port: int,
        folder: Path | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        # A browser sends a host's cookies to each of its ports: two servers there must not take each other's away.
        self.cookie = f"servery_dashboard_{port}"
        self._rings = {Role.ADMIN: admins, Role.VIEWER: viewers}
        self._wall = wall
        self._secrets: dict[bytes, bytes] = {}
        self._ended = Ended(wall, folder)

    def who(self, key: str) -> tuple[Role, Admission] | None:
        """What somebody with this key is; None if it is none of the keys."""
        for role, ring in self._rings.items():
            if (found := ring.find(key)) is not None:
                return role, found
        return None

    async def begin(self, role: Role, admission: Admission) -> tuple[str, Session]:
        """A new session, and what stands in its cookie."""
        expires_s = int(self._wall() + LASTS_S[role])
        nonce = secrets.token_hex(16)
        note = f"{role.value}.{admission.caller.key}.{expires_s}.{nonce}"
        sign = _sign(await self._secret(admission), note)
        return f"{note}.{sign}", Session(role, admission.caller, expires_s, nonce)

    async def find(self, header: bytes) -> Session | None:
        """The session that a request's cookies name, if it is one, and not over."""
        found = _SHAPE.fullmatch(_cookie(header, self.cookie))
        if found is None:
            return None
        named, key_id, expires, nonce, sign = found.groups()
        role, expires_s = Role(named), float(expires)
        admission = self._rings[role].of_id(key_id)
        if admission is None or expires_s <= self._wall() or nonce in self._ended:
            return None
        note = found.string.rpartition(".")[0]
        if not hmac.compare_digest(sign, _sign(await self._secret(admission), note)):
            return None
        return Session(role, admission.caller, expires_s, nonce)

    def is_over(self, session: Session) -> bool:
        """Whether it has ended since it was found: by time, by leaving, or because its key is no more.

        Who sends his key with each request has nothing to leave, but may have a key no more.
        """
        if session.role is Role.LOCAL:
            return False
        is_key = self._rings[session.role].of_id(session.caller.key) is not None
        return not is_key or session.expires_s <= self._wall() or session.nonce in self._ended

    def end(self, session: Session) -> None:
        """Recognise it no more, in any process of this server, until it would be over anyway."""
        if session.nonce:
            self._ended.add(session.nonce, session.expires_s)

    async def _secret(self, admission: Admission) -> bytes:
        found = self._secrets.get(admission.digest)
        if found is None:
            found = await asyncio.to_thread(_derived, admission.digest)
            self._secrets[admission.digest] = found
        return found


def _derived(digest: bytes) -> bytes:
    return hashlib.scrypt(digest, salt=b"servery dashboard session 1", n=1 << 14, r=8, p=1, dklen=32)


def _sign(secret: bytes, note: str) -> str:
    return hmac.new(secret, note.encode(), hashlib.sha256).hexdigest()


def _cookie(header: bytes, wanted: str) -> str:
    """The session's cookie, whatever other programs at this host name keep beside it: what they write is often no token."""
    for pair in header.decode("latin-1").split(";"):
        name, _, value = pair.partition("=")
        if name.strip() == wanted:
            return value.strip()
    return ""
