"""Keys that are made and revoked while the server runs, in an SQLite file: what they may do, and their digests alone.

A key has one secret or, while a new one takes the old one's place, two; its id, and so its limits, stay the same. The
secret itself is shown once, to whoever has it made. Other processes may change the file at any time.
"""

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from servery.config.access import limits_in, limits_shown, tiers_in
from servery.config.types import Limits, Tier
from servery.server.auth import Admission, digest_of, tenant_of
from servery.upstream.caller import Caller

VERSION = 1
_PREFIX = "sk-servery-"
_SHOWN_CHARS = len(_PREFIX) + 5
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, owner TEXT NOT NULL, models TEXT, tiers TEXT, limits TEXT NOT NULL,
    created_s REAL NOT NULL, expires_s REAL, revoked_s REAL
) STRICT;
CREATE TABLE IF NOT EXISTS secrets (
    digest BLOB PRIMARY KEY, key TEXT NOT NULL REFERENCES keys (id), shown TEXT NOT NULL, created_s REAL NOT NULL,
    expires_s REAL
) STRICT;
CREATE INDEX IF NOT EXISTS secrets_of_key ON secrets (key);
"""
_KEYS = "SELECT id, name, owner, models, tiers, limits, created_s, expires_s, revoked_s FROM keys"
_SECRETS = "SELECT key, digest, shown, expires_s FROM secrets ORDER BY created_s"


class KeyStoreError(Exception):
    """The file cannot be used; says which and why."""


class NoSuchKey(Exception):
    """There is no key of that id, or it was revoked; says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key may do. None: any model, any tier, for ever (`expires_s` is Unix time)."""

    name: str = ""
    owner: str = ""
    models: frozenset[str] | None = None
    tiers: frozenset[Tier] | None = None
    expires_s: float | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One secret of a key: its digest, its beginning, and when it ends by itself."""

    digest: bytes
    shown: str
    expires_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key, with its secrets, the oldest first. Times are Unix time."""

    id: str
    terms: KeyTerms
    created_s: float
    revoked_s: float | None
    secrets: Sequence[StoredSecret]

    def state(self, now_s: float) -> str:
        """Whether it is "active", "expired" or "revoked"."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.terms.expires_s is not None and self.terms.expires_s <= now_s else "active"

    def admissions(self) -> list[Admission]:
        """What its secrets admit, nothing if it was revoked."""
        if self.revoked_s is not None:
            return []
        terms = self.terms
        caller = Caller(
            tenant=tenant_of(terms.owner, self.id),
            key=self.id,
            owner=terms.owner,
            models=terms.models,
            tiers=terms.tiers,
            limits=terms.limits,
        )
        return [Admission(each.digest, caller, _earlier(each.expires_s, terms.expires_s)) for each in self.secrets]


class KeyStore:
    """The keys in one file, made if it is not there. Safe to use from several threads; every call may wait for the disk."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time) -> None:
        """Raises `KeyStoreError`. `wall` is Unix time."""
        self.path = path
        self._wall = wall
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._database = _opened(path)
        except (OSError, sqlite3.Error) as error:
            raise KeyStoreError(f"the keys in {path} cannot be used: {error}.") from error

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    @property
    def version(self) -> int:
        """Another number whenever somebody else has changed the file."""
        with self._using() as database:
            (version,) = database.execute("PRAGMA data_version").fetchone()
            return int(version)

    def create(self, terms: KeyTerms) -> tuple[StoredKey, str]:
        """A new key, and its secret, which nobody can read again."""
        key_id = f"key_{secrets.token_hex(8)}"
        tiers = None if terms.tiers is None else {tier.value for tier in terms.tiers}
        limits = msgspec.json.encode(limits_shown(terms.limits)).decode()
        row = (
            key_id, terms.name, terms.owner, _listed(terms.models), _listed(tiers), limits, self._wall(), terms.expires_s, None,
        )  # fmt: skip
        with self._using() as database:
            database.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            secret = self._add_secret(database, key_id)
        return self.get(key_id), secret

    def rotate(self, key_id: str, overlap_s: float) -> tuple[StoredKey, str]:
        """A new secret of a key, whose earlier ones end after `overlap_s`. Raises `NoSuchKey`."""
        self._check_is_active(key_id)
        ends_s = self._wall() + overlap_s
        with self._using() as database:
            database.execute(
                "UPDATE secrets SET expires_s = ? WHERE key = ? AND (expires_s IS NULL OR expires_s > ?)",
                (ends_s, key_id, ends_s),
            )
            database.execute("DELETE FROM secrets WHERE key = ? AND expires_s <= ?", (key_id, self._wall()))
            secret = self._add_secret(database, key_id)
        return self.get(key_id), secret

    def revoke(self, key_id: str) -> StoredKey:
        """End a key now, with all of its secrets. Raises `NoSuchKey`."""
        self._check_is_active(key_id)
        with self._using() as database:
            database.execute("UPDATE keys SET revoked_s = ? WHERE id = ?", (self._wall(), key_id))
            database.execute("DELETE FROM secrets WHERE key = ?", (key_id,))
        return self.get(key_id)

    def get(self, key_id: str) -> StoredKey:
        """The key of that id, revoked or not. Raises `NoSuchKey`."""
        for key in self.all():
            if key.id == key_id:
                return key
        raise NoSuchKey(f"there is no key '{key_id[:100]}'; `servery keys list` shows those that there are.")

    def all(self) -> list[StoredKey]:
        """All keys, the oldest first; raises `KeyStoreError`."""
        with self._using() as database:
            rows = database.execute(f"{_KEYS} ORDER BY created_s, rowid").fetchall()
            found: dict[str, list[StoredSecret]] = {}
            for key_id, digest, shown, expires_s in database.execute(_SECRETS):
                found.setdefault(key_id, []).append(StoredSecret(digest, shown, expires_s))
        try:
            return [_key(row, found.get(row[0], ())) for row in rows]
        except (ValueError, msgspec.DecodeError) as error:
            raise KeyStoreError(f"the keys in {self.path} cannot be read: {error}.") from error

    def _check_is_active(self, key_id: str) -> None:
        if self.get(key_id).revoked_s is not None:
            raise NoSuchKey(f"the key '{key_id}' was revoked already; `servery keys create` makes a new one.")

    def _add_secret(self, database: sqlite3.Connection, key_id: str) -> str:
        secret = _PREFIX + secrets.token_urlsafe(32)
        row = (digest_of(secret.encode()), key_id, secret[:_SHOWN_CHARS], self._wall(), None)
        database.execute("INSERT INTO secrets VALUES (?, ?, ?, ?, ?)", row)
        return secret

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The file, for one change that is whole or none; raises `KeyStoreError`."""
        try:
            with self._lock, self._database:
                yield self._database
        except sqlite3.Error as error:
            raise KeyStoreError(f"the keys in {self.path} cannot be used: {error}.") from error


def _key(row: Sequence[Any], found: Sequence[StoredSecret]) -> StoredKey:
    key_id, name, owner, models, tiers, limits, created_s, expires_s, revoked_s = row
    terms = KeyTerms(
        name=name,
        owner=owner,
        models=None if models is None else frozenset(msgspec.json.decode(models, type=list[str])),
        tiers=None if tiers is None else tiers_in(msgspec.json.decode(tiers, type=list[str])),
        expires_s=expires_s,
        limits=limits_in(msgspec.json.decode(limits, type=dict[str, Any])),
    )
    return StoredKey(id=key_id, terms=terms, created_s=created_s, revoked_s=revoked_s, secrets=tuple(found))


def _listed(names: Iterable[str] | None) -> str | None:
    return None if names is None else msgspec.json.encode(sorted(names)).decode()


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA foreign_keys = ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        database.close()
        raise sqlite3.DatabaseError(f"it is of version {version}, and this Servery knows version {VERSION}")
    database.executescript(_SCHEMA)
    database.execute(f"PRAGMA user_version = {VERSION}")
    return database
