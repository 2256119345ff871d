"""Server-sent events out of timed pieces of bytes (WHATWG HTML, section 9.2.6), as far as the OpenAI API uses them."""

import re
from typing import NamedTuple

from servery.bench.connection import Piece
from servery.bench.errors import Malformed

EVENT_LIMIT_BYTES = 8 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """The data of one event, and when the piece that completed it arrived."""

    at: float
    data: bytes


class EventReader:
    """Feed it pieces, get the events that each one completed. Comments and fields other than `data` are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: Piece) -> list[Event]:
        """Raises `Malformed` when one event grows past `EVENT_LIMIT_BYTES`."""
        buffer = self._rest + piece.data
        # A CR at the very end may be the first half of a CR LF: it waits for the next byte.
        held = buffer.endswith(b"\r")
        lines = _LINE_END.split(buffer[:-1] if held else buffer)
        self._rest = lines.pop() + (b"\r" if held else b"")
        events = [Event(piece.at, data) for line in lines if (data := self._line(line)) is not None]
        if len(self._rest) + sum(map(len, self._data)) > EVENT_LIMIT_BYTES:
            raise Malformed(f"One event is longer than {EVENT_LIMIT_BYTES} bytes; this is no stream of completions.")
        return events

    def _line(self, line: bytes) -> bytes | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return data
