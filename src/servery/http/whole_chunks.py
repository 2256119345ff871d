"""A body in chunks, where what came is whole chunks: their data, without a parser. Pure.

A parser that stands between two chunks reads the same in these bytes; whatever is unusual in them is left to it: partial
chunks, extensions, leading zeros, the last chunk and its trailers, several chunks with line ends of HTTP in them. Source:
RFC 9112 section 7.1.
"""

_LINE_END = b"\r\n"
_MOST_DIGITS = 8


def whole_chunks(data: bytes) -> bytes | None:
    """The data of one or more whole chunks; None where it is anything else."""
    at = data.find(_LINE_END, 0, _MOST_DIGITS + 2)
    size = len(data) - at - 4
    if size > 0 and data[:at].lower() == b"%x" % size and data.endswith(_LINE_END):
        return data[at + 2 : -2]  # most reads bring one
    *parts, rest = data.split(_LINE_END)
    sizes, pieces = parts[::2], parts[1::2]
    are_whole = not rest and all(pieces) and [each.lower() for each in sizes] == [b"%x" % len(each) for each in pieces]
    return b"".join(pieces) if are_whole and pieces else None
