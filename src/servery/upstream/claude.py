"""What a Claude model can do, by the version in its name, at Anthropic's as at Bedrock."""

import re
from dataclasses import dataclass
from typing import Literal

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)


@dataclass(frozen=True, slots=True)
class Abilities:
    """`thinks`: how much it reasons is left to it and guided by an effort, bounded by a budget of tokens, or never.

    `max_tokens` is what is asked for where the client sets no limit and the API wants one. `has_formats`: answers can be
    held to a JSON schema.
    """

    thinks: Literal["adaptively", "in budget", "never"]
    max_tokens: int
    has_formats: bool


def is_claude(model: str) -> bool:
    """Whether a model's name says that it is one of Anthropic's."""
    return "claude" in model


def abilities(model: str) -> Abilities:
    """What Anthropic's documentation says of the version in `model`; without a version, what it says of the newest."""
    found = _VERSION.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else _NEWEST
    if version < (3, 5):
        return Abilities("never", 4_096, has_formats=False)
    if version < (4, 0):
        return Abilities("in budget" if version >= (3, 7) else "never", 8_192, has_formats=False)
    return Abilities("adaptively" if version >= (4, 6) else "in budget", 32_000, has_formats=version >= (4, 5))
