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

    __slots__ = ("_after", "_after_bytes", "_before", "_before_bytes", "digits")

    def __init__(self, before: bytes, digits: bytes, after: bytes) -> None:
        self._before = before
        self.digits = digits
        self._after = after
        self._before_bytes, self._after_bytes = len(before), len(after)

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

    def read(self, data: bytes) -> tuple[bytes, bytes, int] | None:
        """The digits and the body of a message with this head, and how many bytes of that are still to come.

        None if `data` is more than one message, or another.
        """
        if not data.startswith(self._before):
            return None
        begin = self._before_bytes
        end = data.find(b"\r", begin, begin + _MOST_DIGITS)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + self._after_bytes :]
        missing = int(digits) - len(body)
        return (digits, body, missing) if missing >= 0 else None
