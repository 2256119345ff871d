"""A body in chunks, where what came is whole chunks: their data, without a parser. Pure.

A parser that stands between two chunks reads the same in these bytes; whatever is unusual in them is left to it: partial
chunks, extensions, leading zeros, the last chunk and its trailers. Source: RFC 9112 section 7.1.
"""

_LINE_END = b"\r\n"
_MOST_DIGITS = 8


def whole_chunks(data: bytes) -> bytes | None:
    """The data of one or more whole chunks; None where it is anything else."""
    at = data.find(_LINE_END, 0, _MOST_DIGITS + 2)
    size = len(data) - at - 4
    if size > 0 and data[:at].lower() == b"%x" % size and data.endswith(_LINE_END):
        return data[at + 2 : -2]  # most reads bring one
    return _joined(data)


def _joined(data: bytes) -> bytes | None:
    pieces: list[bytes] = []
    begin, end = 0, len(data)
    while begin < end:
        at = data.find(_LINE_END, begin, begin + _MOST_DIGITS + 2)
        size = _size(data[begin:at]) if at > begin else 0
        begin = at + 2 + size + 2
        if not size or data[begin - 2 : begin] != _LINE_END:
            return None
        pieces.append(data[at + 2 : begin - 2])
    return b"".join(pieces) or None


def _size(digits: bytes) -> int:
    """What they say, if they say it as everybody does; else 0."""
    try:
        size = int(digits, 16)
    except ValueError:
        return 0
    return size if digits.lower() == b"%x" % size else 0
