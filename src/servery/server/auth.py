"""Who may ask: API keys, kept as digests, compared in constant time and never logged."""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from servery.config.types import KeyConfig
from servery.upstream.caller import ANYBODY, Caller
from servery.wire.errors import ApiError

_CHALLENGE = (("www-authenticate", "Bearer"),)
# In the place of a digest, which no key has: two keys came, and nobody knows which one is meant.
TWO_KEYS = b""


@dataclass(frozen=True, slots=True)
class Admission:
    """What a key with this digest is, until when (Unix time)."""

    digest: bytes
    caller: Caller
    expires_s: float | None = None


class KeyRing:
    """All keys that may ask for answers: plain ones, the configuration's, and those that a store has.

    A key is found by its SHA-256. Keys are long and random, so that the time which a lookup takes by a digest tells
    nothing that helps to guess one; what was found is compared in constant time all the same.
    """

    def __init__(
        self, plain: Iterable[str], named: Iterable[KeyConfig] = (), wall: Callable[[], float] = time.time
    ) -> None:
        """`wall` is Unix time."""
        self._wall = wall
        self._stored: tuple[Admission, ...] | None = None
        self._by_digest: dict[bytes, Admission] = {}
        self._by_key: dict[str, list[Admission]] = {}
        self.renew(plain, named)

    def renew(self, plain: Iterable[str], named: Iterable[KeyConfig] = ()) -> None:
        """From here on accept these besides what the store has, and no more those of before."""
        self._own = (*map(_of_plain, plain), *(each for key in named for each in admissions_of(key)))
        self._index()

    def take(self, stored: Iterable[Admission]) -> None:
        """From here on accept what the store has now. Where there is a store a key is needed, even if it has none."""
        self._stored = tuple(stored)
        self._index()

    @property
    def is_empty(self) -> bool:
        """Whether no key is needed."""
        return not self._own and self._stored is None

    def check(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Whose key `headers` carry, as a bearer token or, else, as `x-api-key`.

        Raises `ApiError` where a key is needed: 401 without one, and in the same words for a key that was never made,
        has expired or was revoked; 400 for two of which nobody knows which one is meant.
        """
        return self.admit(digest_in(headers))

    def admit(self, digest: bytes | None) -> Caller:
        """As `check`, for a key of this digest; None: there was none."""
        if not self._by_digest and self.is_empty:
            return ANYBODY
        if digest is None:
            raise _missing()
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            raise _two_keys() if digest == TWO_KEYS else _unknown()
        if found.expires_s is not None and self._is_over(found):
            raise _unknown()
        return found.caller

    def find(self, key: str) -> Admission | None:
        """Whose key this is; None if it is none, or has expired."""
        digest = digest_of(key.encode())
        found = self._by_digest.get(digest)
        is_found = found is not None and hmac.compare_digest(found.digest, digest) and not self._is_over(found)
        return found if is_found else None

    def of_id(self, key_id: str) -> Admission | None:
        """A key by its id, the one that is written by hand if it has several secrets; None if it is no more."""
        return next((each for each in reversed(self._by_key.get(key_id, ())) if not self._is_over(each)), None)

    @property
    def callers(self) -> list[Caller]:
        """Everybody who has a key, each once."""
        return [found[-1].caller for found in self._by_key.values()]

    def are_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether `headers` carry one of the keys."""
        found = self._by_digest.get(digest_of(given_key(headers)))
        return found is not None and not self._is_over(found)

    def named(self, headers: Mapping[bytes, bytes]) -> str:
        """The id of the key that `headers` carry; empty if it is none of these, or of no use any more."""
        found = self._by_digest.get(digest_of(given_key(headers)))
        return "" if found is None or self._is_over(found) else found.caller.key

    def caller(self, key_id: str) -> Caller:
        """Who has the key of this id now; raises `ApiError` (401) for one that is no more."""
        if self.is_empty:
            return ANYBODY
        found = self._by_key.get(key_id, ())
        for each in found:
            if not self._is_over(each):
                return each.caller
        raise _unknown()

    def _is_over(self, found: Admission) -> bool:
        return found.expires_s is not None and found.expires_s <= self._wall()

    def _index(self) -> None:
        known = (*(self._stored or ()), *self._own)  # of two for one key the one that was written by hand
        self._by_digest = {each.digest: each for each in known}
        self._by_key = {}
        for each in known:
            self._by_key.setdefault(each.caller.key, []).append(each)


def admissions_of(key: KeyConfig) -> list[Admission]:
    """What a configured key's digests are: all of them the same caller."""
    caller = Caller(
        tenant=tenant_of(key.owner, key.name),
        key=key.name,
        owner=key.owner,
        models=key.models,
        tiers=key.tiers,
        limits=key.limits,
    )
    return [Admission(digest, caller, key.expires_s) for digest in key.digests]


def tenant_of(owner: str, key_id: str) -> bytes:
    """The digest by which one tenant's things are told from another's: all keys of an owner are one, others alone."""
    kind, name = ("owner", owner) if owner else ("key", key_id)
    return hashlib.sha256(f"servery {kind} {len(name)}:{name}".encode()).digest()


def _of_plain(key: str) -> Admission:
    """A key that was written as it is: its id is the beginning of its digest, its tenant itself."""
    digest = digest_of(key.encode())
    return Admission(digest, Caller(tenant=digest, key=f"key_{digest.hex()[:12]}"))


def given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request came with; empty if it has none."""
    given = headers.get(b"authorization", b"")
    if given.startswith(b"Bearer "):
        return given[7:].strip()
    scheme, _, token = given.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def digest_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The digest of the key that a request came with; None if it has none, `TWO_KEYS` for two that are not the same."""
    key = given_key(headers)
    if (other := headers.get(b"x-api-key")) is not None and key != other.strip() != b"":
        return TWO_KEYS
    return digest_of(key) if key else None


def check_one_key(headers: Mapping[bytes, bytes]) -> None:
    """Raise `ApiError` (400) for two keys that are not the same."""
    if digest_in(headers) == TWO_KEYS:
        raise _two_keys()


def digest_of(key: bytes) -> bytes:
    """The SHA-256 by which a key is known."""
    return hashlib.sha256(key).digest()


def _two_keys() -> ApiError:
    """A request that names two keys is malformed (RFC 6750, section 3.1)."""
    message = "'Authorization' and 'x-api-key' have different keys, and one is meant; send one of the headers."
    return ApiError(400, message, code="two_api_keys")


def _missing() -> ApiError:
    return _refusal("No API key was given. Send it in the header: 'Authorization: Bearer YOUR_KEY'.")


def _unknown() -> ApiError:
    return _refusal("The API key is not accepted by this server.")


def _refusal(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers=_CHALLENGE)
