"""What somebody may say of a key, on the command line or over HTTP. Each `ValueError` says what to write instead."""

import re

from servery.config.access import parse_time
from servery.config.units import parse_duration

_MOST_CHARS = 200
_NO_TIME = re.compile(r"0+(\.0+)?\s*(us|ms|s|m|h|d)?", re.ASCII)


def parse_label(given: str) -> str:
    """A name, or an owner: one line of text that a terminal shows as it is."""
    if len(given) > _MOST_CHARS:
        raise ValueError(f"it has {len(given)} characters; write at most {_MOST_CHARS}")
    if not given.isprintable():
        raise ValueError(f"{given!r} has characters that cannot be shown; write one line of plain text")
    return given


def parse_expiry(given: str, now_s: float) -> float:
    """The Unix time of a day or a moment that is still to come, or of a time from now."""
    try:
        return now_s + parse_duration(given)
    except ValueError:
        expires_s = parse_time(given)
    if expires_s <= now_s:
        raise ValueError(f"{given!r} is over; write a day or a moment to come")
    return expires_s


def parse_overlap(given: str) -> float:
    """Seconds for which an earlier secret goes on; "0", or "0s", ends it at once."""
    return 0.0 if _NO_TIME.fullmatch(given.strip()) else parse_duration(given)


def one_line(text: str) -> str:
    """Text as a terminal may show it: what was written down before is not as it would be taken now."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
