"""What of an upstream's words may reach a client, a log or a record. Pure.

Three things may: a code and a type that are words, the name of a parameter, and, where the request itself is at fault, the
message, without addresses, paths of files, and whatever looks like a key. Everything else is said in words of our own.
"""

import re
from collections.abc import Iterable

_MOST_CHARS = 1_000
_WORD = re.compile(r"[A-Za-z_]{1,64}")
_PARAMETER = re.compile(r"[A-Za-z_]{1,40}(?:(?:\.[A-Za-z_]{1,40})|\[\d{1,6}\]){0,12}")
_KEY = re.compile(
    r"\b(?:sk|pk|rk|key|api|ghp|gho|xox[abp]|hf|glpat)[-_][A-Za-z0-9_*.-]{6,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*"
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{6,}"
    r"|(?i:\b(?:api[-_ ]?key|token|secret|password)\s*[=:]\s*)\S+"
    r"|\borg-[A-Za-z0-9]{6,}"
)
_ADDRESS = re.compile(
    r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,15}://\S+"  # a URL
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b"  # IPv4
    r"|\[[0-9a-fA-F:]*:[0-9a-fA-F:.]+\](?::\d{1,5})?"  # IPv6
    r"|\b[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*\.(?:internal|local|svc|lan|corp|intranet)\b[^\s]*"
    r"|\blocalhost(?::\d{1,5})?\b"
)
_PATH = re.compile(r"(?<![\w/])/(?!v\d+/)(?:[\w.@+-]+/)+[\w.@+-]+")  # but those of an API may be told


def word(text: str | None) -> str | None:
    """A code or a type, None for what is no word: it might be anything."""
    return text if text is not None and _WORD.fullmatch(text) else None


def parameter(text: str | None) -> str | None:
    """The name of a parameter, as `messages[0].content`; None for what is none."""
    return text if text is not None and _PARAMETER.fullmatch(text) else None


def redacted(text: str) -> str:
    """A message on one line, without what it should not have said."""
    shown = " ".join(text[:_MOST_CHARS].split())
    for pattern, instead in ((_KEY, "[key]"), (_ADDRESS, "[address]"), (_PATH, "[path]")):
        shown = pattern.sub(instead, shown)
    return shown


def without_keys(text: str) -> str:
    """A text of any length without what looks like a key."""
    return _KEY.sub("[key]", text)


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without these words, whatever they look like."""
    for secret in secrets:
        if len(secret) > 3:  # shorter ones occur in any text, and are none
            text = text.replace(secret, "[secret]")
    return text
