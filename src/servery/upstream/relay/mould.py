"""Events of one stream that differ in nothing but a text: known by what stands around it, and not looked at again. Pure.

A stream repeats itself: behind `data: {"id": …, "delta": {"content": "` comes a text, and behind the text what always
comes. What was found out about one such event holds for all of them, as long as the text stays a text: without a quotation
mark, which would end it (or be one that has a backslash before it), and without a line's end.
"""

import re
from collections.abc import Callable

_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning|thinking|partial_json|delta)": ?"([^"\\\r\n]*)"')


class Mould:
    """What stands around the text of a plain event, as it comes and as the client is to have it."""

    __slots__ = (
        *("_before", "_begin", "_behind", "_end", "_least_bytes", "_seam", "_shown_before", "_shown_behind"),
        *("_shown_seam", "_tokens"),
    )

    def __init__(self, around: tuple[bytes, bytes], shown: tuple[bytes, bytes], tokens: int) -> None:
        self._before, self._behind = around
        self._shown_before, self._shown_behind = shown
        self._seam, self._shown_seam = self._behind + self._before, shown[1] + shown[0]
        self._begin, self._end, self._least_bytes = len(around[0]), -len(around[1]), len(self._seam)
        self._tokens = tokens

    @classmethod
    def of(cls, event: bytes, show: Callable[[bytes], bytes], tokens: int) -> "Mould | None":
        """The one of an event with its blank line, which has so many tokens and is to be changed by `show`; None if it has none."""
        found = _TEXT.search(event)
        if found is None:
            return None
        around = event[: found.start(1)], event[found.end(1) :]
        shown = show(around[0]), show(around[1])
        return cls(around, shown, tokens) if show(event) == shown[0] + found[1] + shown[1] else None

    def read(self, data: bytes) -> tuple[bytes, int] | None:
        """One or more events, as the client is to have them, and their tokens; None if there is anything else."""
        if not data.startswith(self._before) or not data.endswith(self._behind) or len(data) < self._least_bytes:
            return None
        inner = data[self._begin : self._end]
        texts = inner.replace(self._seam, b"")
        if b'"' in texts or b"\n" in texts or b"\r" in texts:
            return None
        if texts == inner:
            return b"%b%b%b" % (self._shown_before, inner, self._shown_behind), self._tokens
        events = 1 + (len(inner) - len(texts)) // len(self._seam)
        inner = inner.replace(self._seam, self._shown_seam)
        return b"%b%b%b" % (self._shown_before, inner, self._shown_behind), events * self._tokens
