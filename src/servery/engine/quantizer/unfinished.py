"""A checkpoint under construction, in a folder beside its destination, which it becomes when it is complete."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.json_fields import read_optional_json

SETTINGS_FILE = "servery_quantization.json"
_LOCK_FILE = "servery.lock"
_NEW = ".new"


class Unfinished:
    """The parts that are there so far. Files appear whole or not at all, so that a kill at any moment leaves no half.

    `settings` say what is made and of what; they are written beside it, and only what has the same is gone on with.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out.resolve()
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        self._settings = dict(settings)

    @property
    def is_finished(self) -> bool:
        """Whether the destination is there already and made of the same; raises `LoadError` if it is anything else."""
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return False
        if not self.out.is_dir() or _differences(self.out, self._settings):
            raise LoadError(f"{self.out} exists and is not this model quantized this way; name another folder.")
        return True

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the folder is ours; if it ends with an error and nothing was made, the folder is gone again.

        Raises `LoadError` if it cannot be written, if another process has it, or if it is for something else.
        """
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LoadError(f"another process writes {self.folder} right now; wait for it, or stop it.") from None
            self._begin()
            try:
                yield
            except BaseException:
                self._remove_if_empty()
                raise

    def _lock_file(self) -> TextIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / _LOCK_FILE).open("w")
        except OSError as error:
            raise LoadError(f"{self.folder} cannot be written: {error.strerror}; name another folder.") from error

    def _remove_if_empty(self) -> None:
        if {path.name for path in self.folder.iterdir()} <= {_LOCK_FILE, SETTINGS_FILE}:
            self.remove(SETTINGS_FILE)
            self.remove(_LOCK_FILE)
            self.folder.rmdir()

    def _begin(self) -> None:
        if (self.folder / SETTINGS_FILE).exists():
            different = _differences(self.folder, self._settings)
            if different:
                raise LoadError(
                    f"{self.folder} was begun with other {' and '.join(different)}; remove it, or name another folder."
                )
        elif any(path.name != _LOCK_FILE for path in self.folder.iterdir()):
            raise LoadError(f"{self.folder} is in the way and nothing that can be gone on with; remove it.")
        else:
            self.write(SETTINGS_FILE, json.dumps(self._settings, indent=2).encode() + b"\n")

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.folder / name).exists()

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole."""
        with self._whole(name) as path:
            path.write_bytes(data)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file whole."""
        with self._whole(name) as path:
            save_file(dict(tensors), path, metadata={"format": "pt"})

    def read_tensor(self, name: str, key: str) -> Tensor:
        """A tensor of a file that was written before."""
        return load_file(self.folder / name)[key]

    def listed(self, pattern: str) -> list[str]:
        """The names of the files that are there and match."""
        return sorted(path.name for path in self.folder.glob(pattern))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Make the folder the destination."""
        self.remove(_LOCK_FILE)
        for path in self.folder.glob(f"*{_NEW}"):  # of writes that a kill cut short
            path.unlink()
        if self.out.exists():
            self.out.rmdir()
        self.folder.rename(self.out)

    @contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        path = self.folder / f"{name}{_NEW}"
        try:
            path.touch()
            mode = path.stat().st_mode
            yield path
            path.chmod(mode)  # safetensors makes files that only their owner may read
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self.folder / name)
        except (OSError, SafetensorError) as error:
            path.unlink(missing_ok=True)
            raise LoadError(
                f"{path} cannot be written: {_reason(error)}. The same command goes on from here."
            ) from error


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _differences(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The settings that `folder` was not made with."""
    found = read_optional_json(folder / SETTINGS_FILE)
    return [name for name in settings if found.get(name, ...) != settings[name]]
