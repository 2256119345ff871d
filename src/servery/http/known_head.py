"""The head of the message before, for the next one of the same way, which mostly says the same.

A parser that is between two messages finds the same in the same bytes. So a head that differs in nothing but the number of
its Content-Length need not be parsed again: what was found in it, and checked, holds.
"""

_LENGTH = b"\r\ncontent-length: "
_END = b"\r\n\r\n"
_MOST_DIGITS = 12
# An idle connection is not to hold more than this.
_MOST_BYTES = 4 << 10


class KnownHead:
    """The bytes of a head before and behind that number."""

    __slots__ = ("_after", "_before", "digits")

    def __init__(self, before: bytes, digits: bytes, after: bytes) -> None:
        self._before = before
        self.digits = digits
        self._after = after

    @classmethod
    def of(cls, data: bytes, digits: bytes) -> "KnownHead | None":
        """That of one message, of which a parser says that its Content-Length is `digits` and nothing else frames it.

        `data` begins with it; its body may have come in part. None where the digits are not in the place where they are
        looked for, where there is more behind the message, and where a parser may see another end of the head.
        """
        end = data.find(_END)
        head = data[: end + len(_END)]
        at = head.lower().find(_LENGTH)
        if not 0 <= end <= _MOST_BYTES or at < 0 or not digits.isdigit() or len(head) + int(digits) < len(data):
            return None
        begin = at + len(_LENGTH)
        if not head.startswith(digits + b"\r", begin) or head.count(b"\n") != head.count(b"\r\n"):
            return None
        return cls(head[:begin], digits, head[begin + len(digits) :])

    def read(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The digits and the body of a message with this head, or what has come of it; None if `data` is more, or else."""
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        return (digits, body) if len(body) <= int(digits) else None
