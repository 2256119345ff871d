"""Files on disk: one for the content, one that describes it and whose being there makes the file exist."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from servery.wire.errors import ApiError, shown
from servery.wire.files import FileObject


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    file: FileObject
    owner: str


class Upload:
    """A file on its way in; `finish` makes it exist, `abandon` leaves no trace. Not more than `limit_bytes`."""

    def __init__(self, path: Path, limit_bytes: int, too_large: Callable[[], ApiError]) -> None:
        self.path = path
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._too_large = too_large
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        """Add to the file; raises `ApiError` (413) when it grows too large."""
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise self._too_large()
        self._file.write(data)

    def close(self) -> None:
        """Everything is written and on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """The file is not wanted after all; safe after `close` too, and then without effect on a finished file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class FileStore:
    """The files in `folder`, each its owner's alone, together at most `max_bytes`, each at most `max_file_bytes`.

    Survives a restart: what was finished is there again, what was not is removed.
    """

    def __init__(self, folder: Path, max_bytes: int, max_file_bytes: int, now: Callable[[], float] = time.time) -> None:
        """Raises `OSError` when the folder cannot be used."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_file_bytes = max_file_bytes
        self._now = now
        self._records: dict[str, _Record] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    @property
    def size_bytes(self) -> int:
        """All contents together."""
        return sum(record.file.bytes for record in self._records.values())

    def upload(self) -> Upload:
        """Begin a file."""
        left = self._max_bytes - self.size_bytes
        return Upload(self._folder / f"{secrets.token_hex(16)}.part", min(left, self._max_file_bytes), self._too_large)

    def finish(self, upload: Upload, owner: bytes, filename: str, purpose: str) -> FileObject:
        """The file exists from here on."""
        upload.close()
        return self.adopt(upload.path, new_file_id(), owner, filename, purpose)

    def adopt(self, path: Path, file_id: str, owner: bytes, filename: str, purpose: str) -> FileObject:
        """Make a finished file of what is at `path` on the same disk, which is moved; `file_id` is a new one."""
        file = FileObject(
            id=file_id, bytes=path.stat().st_size, created_at=int(self._now()), filename=filename, purpose=purpose
        )
        path.rename(self.content_path(file.id))
        record = _Record(file=file, owner=owner.hex())
        write_atomically(self._record_path(file.id), msgspec.json.encode(record))
        self._records[file.id] = record
        return file

    def get(self, owner: bytes, file_id: str, param: str | None = None) -> FileObject:
        """The file of that owner; raises `ApiError` (404), the same for another's as for one that never was."""
        record = self._records.get(file_id)
        if record is None or record.owner != owner.hex():
            raise ApiError(404, f"There is no file '{shown(file_id)}'.", param=param, code="file_not_found")
        return record.file

    def of(self, owner: bytes) -> list[FileObject]:
        """The owner's files, the newest last."""
        files = [record.file for record in self._records.values() if record.owner == owner.hex()]
        return sorted(files, key=lambda file: file.created_at)

    def delete(self, owner: bytes, file_id: str) -> None:
        """Remove a file; raises `ApiError` (404) as `get` does."""
        self.get(owner, file_id)
        self._record_path(file_id).unlink(missing_ok=True)
        self.content_path(file_id).unlink(missing_ok=True)
        del self._records[file_id]

    def content_path(self, file_id: str) -> Path:
        """Where the content of a file that exists is."""
        return self._folder / f"{file_id}.data"

    def _record_path(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.json"

    def _load(self) -> None:
        for path in self._folder.glob("*.part"):
            path.unlink()
        for path in sorted(self._folder.glob("file-*.json")):
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
            if self.content_path(record.file.id).is_file():
                self._records[record.file.id] = record
        for path in self._folder.glob("file-*.data"):
            if path.stem not in self._records:
                path.unlink()

    def _too_large(self) -> ApiError:
        message = (
            f"The file is too large: a file may have {self._max_file_bytes} bytes and all files together "
            f"{self._max_bytes}, of which {self.size_bytes} are taken. Delete files, or raise --max-file."
        )
        return ApiError(413, message, param="file", code="file_too_large")


def new_file_id() -> str:
    """An id that no file has."""
    return f"file-{secrets.token_hex(12)}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whatever happens, it has either its old content or all of the new."""
    part = path.with_suffix(".tmp")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
