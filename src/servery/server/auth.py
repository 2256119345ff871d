"""Who may ask: API keys, compared in constant time and never logged."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from servery.wire.errors import ApiError

_CHALLENGE = (("www-authenticate", "Bearer"),)


class Keys:
    """The accepted keys, kept as digests; without any, everybody is served."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.renew(keys)

    def renew(self, keys: Iterable[str]) -> None:
        """From here on accept these, and no more those of before."""
        self._digests = [_digest(key.encode()) for key in keys]

    @property
    def is_empty(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    def check(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The digest of the accepted key that `headers` carry, as a bearer token or, else, as `x-api-key`.

        Empty where no key is needed; raises `ApiError` (401) where one is and there is none.
        """
        if self.is_empty:
            return b""
        key = _given(headers)
        if not key:
            raise _refusal("No API key was given. Send it in the header: 'Authorization: Bearer YOUR_KEY'.")
        if not self.has(key):
            raise _refusal("The API key is not accepted by this server.")
        return _digest(key)

    def are_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether `headers` carry one of the keys."""
        key = _given(headers)
        return bool(key) and self.has(key)

    def has(self, key: bytes) -> bool:
        """Whether it is one of them."""
        given = _digest(key)
        # Summed, not searched: every key is compared, so that the time does not tell which one it was.
        return sum(hmac.compare_digest(given, known) for known in self._digests) > 0


def _given(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refusal(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers=_CHALLENGE)
