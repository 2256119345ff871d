"""What a connection's last request said in its head, for the next one: its client mostly says the same again."""

from servery.http.known_head import KnownHead
from servery.server.types import Scope

# With one of these there is more to a request than its head and so many bytes.
_OTHERWISE = (b"transfer-encoding", b"expect", b"upgrade")


class KnownRequest:
    """A head that was taken, and its scope."""

    __slots__ = ("_head", "_scope")

    def __init__(self, head: KnownHead, scope: Scope) -> None:
        self._head = head
        self._scope = scope

    @classmethod
    def of(cls, data: bytes, scope: Scope) -> "KnownRequest | None":
        """What is known by the first bytes of a request, all of its head; None where not its length alone frames it."""
        fields = scope["fields"]
        digits = fields.get(b"content-length")
        if digits is None or len(fields) < len(scope["headers"]) or any(name in fields for name in _OTHERWISE):
            return None
        if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        head = KnownHead.of(data, digits)
        return None if head is None else cls(head, scope)

    def request(self, data: bytes) -> tuple[Scope, bytes, int] | None:
        """What `data` asks, its body, and how many bytes of that are still to come.

        None unless it is one request with all of this head, and nothing behind it.
        """
        found = self._head.read(data)
        if found is None:
            return None
        digits, body, missing = found
        return self._scope if digits == self._head.digits else self._resized(digits), body, missing

    def _resized(self, digits: bytes) -> Scope:
        scope = self._scope
        headers = [(name, digits if name == b"content-length" else value) for name, value in scope["headers"]]
        return {**scope, "headers": headers, "fields": {**scope["fields"], b"content-length": digits}}
