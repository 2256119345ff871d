"""Finds markers in a stream of text, wherever tokens begin and end."""

from collections.abc import Sequence
from typing import NamedTuple


class Split(NamedTuple):
    """A text cut at the first marker in it: `before`, the marker, `after`.

    Without one, `before` is what certainly belongs to none, and `after` the end that may be the beginning of one.
    """

    before: str
    marker: str | None
    after: str


def split_at_marker(text: str, markers: Sequence[str]) -> Split:
    """Cut `text` at the marker that begins first; of two that begin at one place, the longer."""
    found = [(text.find(marker), -len(marker), marker) for marker in markers if marker in text]
    if found:
        at, _, marker = min(found)
        if not any(longer.startswith(text[at:]) and len(longer) > len(text) - at for longer in markers):
            return Split(text[:at], marker, text[at + len(marker) :])
        return Split(text[:at], None, text[at:])  # a longer marker may begin at the same place
    begun = max((_overlap(text, marker) for marker in markers), default=0)
    return Split(text[: len(text) - begun], None, text[len(text) - begun :])


def _overlap(text: str, marker: str) -> int:
    """The length of the longest proper beginning of `marker` with which `text` ends."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
