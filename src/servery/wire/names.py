"""The names that clients give to functions and schemas, as OpenAI's API has them, with its words for those it refuses."""

import re

from servery.wire.errors import invalid, shown

PATTERN = "^[a-zA-Z0-9_-]+$"
_ALLOWED = re.compile(r"[a-zA-Z0-9_-]+")


def check_name(param: str, name: str, most: int = 64) -> None:
    """Raise `ApiError` unless it has 1 to `most` characters, all of them ASCII letters, digits, underscores or dashes."""
    if not name:
        told = "empty string. Expected a string with minimum length 1, but got an empty string instead."
        raise invalid(f"Invalid '{param}': {told}", param, "empty_string")
    if len(name) > most:
        told = (
            f"string too long. Expected a string with maximum length {most}, but got a string with length {len(name)}"
        )
        raise invalid(f"Invalid '{param}': {told} instead.", param, "string_above_max_length")
    if not _ALLOWED.fullmatch(name):
        told = f"string does not match pattern. Expected a string that matches the pattern '{PATTERN}'"
        raise invalid(f"Invalid '{param}': {told}, but got '{shown(name)}'.", param)
