"""The configuration that is in force, and its exchange for the next one while the server runs.

A new one is validated whole before it takes the old one's place in one step, so that nobody ever sees half of it; whoever
holds the old one keeps it. A bad file changes nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from servery.config.deployment_reader import EngineCheck
from servery.config.errors import ConfigError, Fault
from servery.config.errors import Path as KeyPath
from servery.config.load import load_config
from servery.config.types import Config, LedgerConfig

# What a running server has taken up for good: sockets that are bound, files that are open.
_FIXED = ("host", "port", "ledger", "key_store")
_FIXED_LIMITS = ("redis", "deadline_s", "on_failure")
_Stamp: TypeAlias = tuple[int, int, int]  # when a file was written, its size, its inode
_STAYS = "it stays as it was until the server is started again."


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of what differs between two configurations."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @classmethod
    def between(cls, old: Mapping[str, object], new: Mapping[str, object]) -> "Changes":
        """What to do to `old` to get `new`."""
        return cls(
            added=tuple(name for name in new if name not in old),
            removed=tuple(name for name in old if name not in new),
            changed=tuple(name for name in new if name in old and new[name] != old[name]),
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = [(word, getattr(self, word)) for word in ("added", "changed", "removed")]
        return ", ".join(f"{word} {' '.join(names)}" for word, names in parts if names) or "unchanged"


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload did: the configuration in force, and what of it is new."""

    config: Config
    models: Changes
    deployments: Changes


class LiveConfig:
    """Holds the configuration in force. `on_change` is told of each new one before `current` is that one; it may raise."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str] = os.environ,
        *,
        check_engine: EngineCheck | None = None,
    ) -> None:
        self._current = config
        self._environment = environment
        self._check_engine = check_engine
        self._seen = self._read = _stamps(config)
        self._listeners: list[Callable[[Reload], None]] = []

    @property
    def current(self) -> Config:
        """The configuration in force; an exchange takes it once and keeps it to its end."""
        return self._current

    def on_change(self, listener: Callable[[Reload], None]) -> None:
        """Have `listener` take part in every later change."""
        self._listeners.append(listener)

    def reload(self) -> Reload:
        """Read the file again and put it in force, even if it says the same; raises as `read` and `take` do."""
        return self.take(self.read())

    def read(self) -> Config:
        """What the file says now, to be put in force by `take`; may run beside everything else, but for another reload.

        Raises `ConfigError`, with every fault, when it cannot be used; then everything stays as it was.
        """
        old = self._current
        if old.source is None:
            raise ConfigError(
                "the configuration", [Fault(1, (), "it did not come from a file, so none can be read again.")]
            )
        stamps = self._read = _stamps(old)
        try:
            return load_config(
                old.source,
                self._environment,
                check_engine=self._check_engine,
                check=lambda config: _broken(old, config),
            )
        except ConfigError:
            self._seen = stamps
            raise

    def take(self, read: Config) -> Reload:
        """Put in force what was read of the file; what a listener raises leaves everything as it was."""
        old, self._seen = self._current, self._read
        new = dataclasses.replace(read, generation=old.generation + 1)
        done = Reload(new, Changes.between(old.models, new.models), Changes.between(old.deployments, new.deployments))
        for listener in self._listeners:
            listener(done)
        self._current = new
        # What was written since it was read is not what is in force.
        self._seen = _stamps(new) | {path: stamp for path, stamp in self._read.items() if path in _files(new)}
        return done

    def is_stale(self) -> bool:
        """Whether a file was changed since what was read last was taken; a bad one is not tried again until it changes."""
        return self._seen != _stamps(self._current)


def _broken(old: Config, new: Config) -> list[tuple[KeyPath, str]]:
    """The keys that differ and must not, with why."""
    faults: list[tuple[KeyPath, str]] = [
        (("server", name), f"it is {_shown(was)} until the server is started again, not {_shown(now)}.")
        for name in _FIXED
        if (was := getattr(old, name)) != (now := getattr(new, name)) and not _is_same_place(was, now)
    ]
    if _is_same_place(old.ledger, new.ledger) and old.ledger != new.ledger:
        faults.append((("server", "ledger_retention"), _STAYS))
    return faults + [
        (("limits", name.removesuffix("_s")), _STAYS)
        for name in _FIXED_LIMITS
        if getattr(old.limits, name) != getattr(new.limits, name)
    ]


def _is_same_place(old: object, new: object) -> bool:
    """Whether two ledgers differ at most in how long rows are kept."""
    if not isinstance(old, LedgerConfig) or not isinstance(new, LedgerConfig):
        return False
    return (old.path, old.url) == (new.path, new.url)


def _shown(value: object) -> object:
    return value.shown if isinstance(value, LedgerConfig) else value


def _stamps(config: Config) -> dict[Path, _Stamp | None]:
    """What tells whether any of a configuration's files was written or replaced, a mounted one's link included."""
    return {path: _stamp(path) for path in _files(config)}


def _files(config: Config) -> tuple[Path, ...]:
    return () if config.source is None else (config.source, *config.files)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
