"""Keys in a store that change while the server runs: by its own admins, or by `servery keys` in another process."""

import asyncio
import logging
from pathlib import Path

from servery.config.types import LedgerConfig
from servery.server.auth import KeyRing
from servery.server.key_store import KeyStore, KeyStoreError

log = logging.getLogger(__name__)

# What a store is called that nobody named: it lies beside the ledger.
DEFAULT_NAME = "servery-keys.sqlite"
_LOOK_S = 1.0


class KeyWatch:
    """Keeps `ring` as the store at `path` is, from when there is one: at once if it `must_be`. Raises `KeyStoreError`."""

    def __init__(self, path: Path, ring: KeyRing, *, must_be: bool) -> None:
        self._path = path
        self._ring = ring
        self._store: KeyStore | None = None
        self._version = -1
        self._has_failed = False
        if must_be or path.exists():
            self._store = KeyStore(path)
            self._version = self._store.version
            self.take()

    @property
    def store(self) -> KeyStore | None:
        """The store, if there is one by now."""
        return self._store

    def take(self) -> None:
        """Have the ring accept what is in the store now."""
        if self._store is not None:
            self._ring.take([each for key in self._store.all() for each in key.admissions()])

    async def watch(self) -> None:
        """Follow the store until cancelled; a store that cannot be read changes nothing."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                if await asyncio.to_thread(self._is_changed):
                    self.take()
            except KeyStoreError as error:
                if not self._has_failed:
                    log.error("the accepted keys stay as they are: %s", error)
                self._has_failed = True
            else:
                self._has_failed = False

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()

    def _is_changed(self) -> bool:
        if self._store is None:
            if not self._path.exists():
                return False
            self._store = KeyStore(self._path)
        version = self._store.version
        is_changed, self._version = version != self._version, version
        return is_changed


def store_path(named: Path | None, ledger: LedgerConfig | None) -> Path | None:
    """Where keys are: as it was named, else beside the ledger's file."""
    if named is not None:
        return named
    return None if ledger is None or ledger.path is None else ledger.path.parent / DEFAULT_NAME
