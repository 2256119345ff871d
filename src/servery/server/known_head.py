"""The head of the request before, for the next one on its connection, which mostly says the same.

A parser that is between two messages finds the same in the same bytes. So a head that differs in nothing but its
Content-Length is not parsed again: what was found, and checked, holds.
"""

from servery.server.types import Scope

_LENGTH = b"\r\ncontent-length: "
_END = b"\r\n\r\n"
_MOST_DIGITS = 12
# An idle connection is not to hold more than this.
_MOST_BYTES = 4 << 10
# With one of these there is more to a request than its head and so many bytes.
_OTHERWISE = (b"transfer-encoding", b"expect", b"upgrade", b"connection")


class KnownHead:
    """One that was taken: the bytes before and behind the number of its Content-Length, and what it says."""

    __slots__ = ("_after", "_before", "_digits", "_scope")

    def __init__(self, before: bytes, digits: bytes, after: bytes, scope: Scope) -> None:
        self._before = before
        self._digits = digits
        self._after = after
        self._scope = scope

    @classmethod
    def of(cls, data: bytes, scope: Scope) -> "KnownHead | None":
        """What is known by one whole request; None for one that is not framed by its length alone."""
        fields = scope["fields"]
        digits = fields.get(b"content-length")
        if digits is None or not digits.isdigit() or len(fields) < len(scope["headers"]):
            return None
        if any(name in fields for name in _OTHERWISE):
            return None
        end = data.find(_END)
        head = data[: end + len(_END)]
        at = head.lower().find(_LENGTH)
        if not 0 <= end <= _MOST_BYTES or at < 0 or len(head) + int(digits) != len(data):
            return None
        begin = at + len(_LENGTH)
        if not head.startswith(digits + b"\r", begin):
            return None
        return cls(head[:begin], digits, head[begin + len(digits) :], scope)

    def request(self, data: bytes) -> tuple[Scope, bytes] | None:
        """What `data` asks, and its body; None unless it is one whole request with this head."""
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        if len(body) != int(digits):
            return None
        return self._scope if digits == self._digits else self._resized(digits), body

    def _resized(self, digits: bytes) -> Scope:
        scope = self._scope
        headers = [(name, digits if name == b"content-length" else value) for name, value in scope["headers"]]
        return {**scope, "headers": headers, "fields": {**scope["fields"], b"content-length": digits}}
