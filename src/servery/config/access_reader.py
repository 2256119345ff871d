"""The sections of keys, of owners and of how is counted against limits."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from servery.config import errors, sections
from servery.config.access import parse_digest, parse_time
from servery.config.reader import Reader
from servery.config.secret import Secret
from servery.config.types import KeyConfig, Limits, LimitsConfig
from servery.config.units import parse_duration
from servery.config.validation import did_you_mean


class AccessReader:
    """Reads who may ask for what, and how much."""

    def __init__(self, reader: Reader, models: Iterable[str]) -> None:
        """`models` are those that may be named."""
        self._reader = reader
        self._models = list(models)

    def key(self, name: str, value: Any) -> KeyConfig | None:
        """None, and a fault, when the value is no such section."""
        at = ("keys", name)
        section = self._reader.section(sections.KeySection, value, at)
        if section is None:
            return None
        for model in section.models or []:
            if model not in self._models:
                self._reader.fault((*at, "models"), f"there is no model '{model}'.{did_you_mean(model, self._models)}")
        given = [section.sha256] if isinstance(section.sha256, str) else section.sha256
        if not given:
            self._reader.fault((*at, "sha256"), "name at least one; remove the key to revoke it.")
        expires = section.expires
        return KeyConfig(
            name=name,
            digests=tuple(self._reader.read(parse_digest, each, (*at, "sha256"), b"") for each in given),
            owner=section.owner or "",
            models=None if section.models is None else frozenset(section.models),
            tiers=None if section.tiers is None else frozenset(section.tiers),
            expires_s=None if expires is None else self._reader.read(parse_time, expires, (*at, "expires"), 0.0),
            limits=self._reader.limits(section.limits, (*at, "limits")),
        )

    def owner(self, name: str, value: Any) -> Limits | None:
        """None, and a fault, when the value is no such section."""
        section = self._reader.section(sections.OwnerSection, value, ("owners", name))
        return None if section is None else self._reader.limits(section.limits, ("owners", name, "limits"))

    def limiting(self, value: Any) -> LimitsConfig:
        """Where and how is counted; as if it were not there when it is no such section."""
        at: errors.Path = ("limits",)
        section = self._reader.section(sections.LimitingSection, value, at)
        if section is None:
            return LimitsConfig()
        if section.redis is not None and not _is_redis(section.redis):
            self._reader.fault((*at, "redis"), "this is no address of a Redis; write redis://HOST:6379/0.")
        return LimitsConfig(
            redis=None if section.redis is None else Secret(section.redis),
            deadline_s=self._reader.read(parse_duration, section.deadline, (*at, "deadline"), 0.1),
            on_failure=section.on_failure,
            default_max_tokens=section.default_max_tokens,
        )


def _is_redis(url: str) -> bool:
    """Whether it is an address that a client can take. What is wrong is never shown: it may be of the password."""
    try:
        parts = urlsplit(url)
        database = parts.path.removeprefix("/")
        is_port = parts.port != 0
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    is_database = not database or (database.isascii() and database.isdecimal())
    return parts.scheme in ("redis", "rediss") and is_port and is_database
