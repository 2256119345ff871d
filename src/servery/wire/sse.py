"""Server-sent events, as much of them as the APIs of models use."""

DONE = b"data: [DONE]\n\n"

# One newline: a comment followed by a blank line is an empty event, on which some clients die.
KEEP_ALIVE = b": ka\n"

MAX_EVENT_BYTES = 8 << 20


class EventTooLong(ValueError):
    """An event that does not end."""


def event(data: bytes) -> bytes:
    """One event; `data` is JSON without line breaks."""
    return b"data: " + data + b"\n\n"


def data_of(lines: bytes) -> bytes:
    """The data of an event that `EventCutter` gave; empty if it has none."""
    if lines.startswith(b"data: ") and b"\n" not in lines:
        return lines[6:]
    found = [line[5:].removeprefix(b" ") for line in lines.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(found)


class EventCutter:
    """Cuts a stream, which comes in pieces of any size, into events: without comments, lines end in LF."""

    def __init__(self, limit_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self.rest = b""  # of what came, that is no whole event yet

    @property
    def has_rest(self) -> bool:
        """Whether an event has begun that has not ended."""
        return bool(_without_comments(self.rest).strip())

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes, without their blank lines; raises `EventTooLong`."""
        if not self.rest and _is_plain(data):
            return data[:-2].split(b"\n\n")
        text = self.rest + data
        if b"\r" in text:
            text = _with_line_feeds(text)
        whole, _, self.rest = text.rpartition(b"\n\n")
        if len(self.rest) > self._limit_bytes:
            raise EventTooLong(f"an event has more than {self._limit_bytes} bytes")
        events = (_without_comments(lines.strip(b"\n")) for lines in whole.split(b"\n\n"))
        return [lines for lines in events if lines]


def _is_plain(data: bytes) -> bool:
    """Whether it is whole events and nothing else, as most pieces are: then there is nothing to do but to cut."""
    is_whole = data.endswith(b"\n\n") and not data.startswith((b"\n", b":"))
    return is_whole and b"\r" not in data and b"\n:" not in data and b"\n\n\n" not in data


def _with_line_feeds(text: bytes) -> bytes:
    """CRLF and CR as LF; a CR at the end stays, the LF of the same line may follow."""
    last = b"\r" if text.endswith(b"\r") else b""
    return text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + last


def _without_comments(lines: bytes) -> bytes:
    if not lines.startswith(b":") and b"\n:" not in lines:
        return lines
    return b"\n".join(line for line in lines.split(b"\n") if not line.startswith(b":"))
