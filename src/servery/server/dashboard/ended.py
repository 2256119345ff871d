"""Sessions that somebody has left before their time was over: known to every process of a server at once."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

_MOST = 10_000


class Ended:
    """Sessions by their nonces, each until it would be over anyway.

    `folder` is shared by the server's processes, if there are several: there each session is an empty file, whose time is
    the session's end. `wall` gives Unix time.
    """

    def __init__(self, wall: Callable[[], float], folder: Path | None = None) -> None:
        self._wall = wall
        self._folder = folder
        self._until_s: dict[str, float] = {}

    def add(self, nonce: str, expires_s: float) -> None:
        """This one has been left."""
        if len(self._until_s) >= _MOST:
            self._forget()
        self._until_s[nonce] = expires_s
        if self._folder is not None:
            path = self._path(self._folder, nonce)
            path.touch()
            os.utime(path, (expires_s, expires_s))

    def __contains__(self, nonce: str) -> bool:
        """Whether it has been left, wherever that was."""
        return nonce in self._until_s or (self._folder is not None and self._path(self._folder, nonce).exists())

    def _forget(self) -> None:
        """Let go of those that are over by themselves by now."""
        now_s = self._wall()
        self._until_s = {nonce: until_s for nonce, until_s in self._until_s.items() if until_s > now_s}
        if self._folder is not None:
            for path in self._folder.glob("left-*"):
                with contextlib.suppress(FileNotFoundError):  # another process has done it
                    if path.stat().st_mtime <= now_s:
                        path.unlink()

    @staticmethod
    def _path(folder: Path, nonce: str) -> Path:
        return folder / f"left-{nonce}"
