"""Files on disk: one for the content, one that describes it, written first; both together make the file exist."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from servery.batch.disk import disk_faults_told, to_write, write_atomically
from servery.batch.room import NoRoom, Room
from servery.wire.errors import ApiError, shown
from servery.wire.files import FileObject


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    file: FileObject
    owner: str


class Upload:
    """A file on its way in; `finish` makes it exist, `abandon` leaves no trace. Not more than `limit_bytes`.

    It takes its room as it grows, so that any number of uploads together keep to the bound of all files.
    """

    def __init__(self, path: Path, limit_bytes: int, room: Room, too_large: Callable[[], ApiError]) -> None:
        """Raises `OSError` when the disk does not take it."""
        self.path = path
        self.size_bytes = 0
        self._limit_bytes = limit_bytes
        self._room = room
        self._too_large = too_large
        self._file = to_write(path)

    def write(self, data: bytes) -> None:
        """Add to the file; raises `ApiError` (413) when it grows too large, (507) when the disk does not take it."""
        if self.size_bytes + len(data) > self._limit_bytes:
            raise self._too_large()
        try:
            self._room.take(len(data))
        except NoRoom:
            raise self._too_large() from None
        self.size_bytes += len(data)
        with disk_faults_told():
            self._file.write(data)

    def close(self) -> None:
        """Everything is written and on the disk; raises `OSError`, and is closed all the same."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def abandon(self) -> None:
        """The file is not wanted after all, whatever became of it; not to be called for a finished one."""
        with contextlib.suppress(OSError):
            self._file.close()  # what it has in its buffer may still not fit on the disk
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)  # the next start removes it
        self._room.give_back(self.size_bytes)
        self.size_bytes = 0


class FileStore:
    """The files in `folder`, each its owner's alone, together at most `max_bytes`, each at most `max_file_bytes`.

    Survives a restart: what was finished is there again, what was not is removed. `room` is shared with whatever else
    is to become a file here.
    """

    def __init__(self, folder: Path, max_bytes: int, max_file_bytes: int, now: Callable[[], float] = time.time) -> None:
        """Raises `OSError` when the folder cannot be used."""
        self.room = Room(max_bytes)
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._now = now
        self._records: dict[str, _Record] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def upload(self) -> Upload:
        """Begin a file; raises `ApiError` (507) when the disk does not take it."""
        path = self._folder / f"{secrets.token_hex(16)}.part"
        with disk_faults_told():
            return Upload(path, self._max_file_bytes, self.room, self._too_large)

    def finish(self, upload: Upload, owner: bytes, filename: str, purpose: str) -> FileObject:
        """The file exists from here on; raises `ApiError` (507) when the disk does not take it, which leaves no trace."""
        try:
            with disk_faults_told():
                upload.close()
                return self.adopt(upload.path, file_id=new_file_id(), owner=owner, filename=filename, purpose=purpose)
        except BaseException:
            upload.abandon()
            raise

    def adopt(self, path: Path, *, file_id: str, owner: bytes, filename: str, purpose: str) -> FileObject:
        """Make a finished file of what is at `path` on the same disk and counted in `room`, which is moved.

        `file_id` is a new one, or that of an attempt which raised `OSError`: what is at `path` is still there then.
        """
        file = FileObject(
            id=file_id, bytes=path.stat().st_size, created_at=int(self._now()), filename=filename, purpose=purpose
        )
        record = _Record(file=file, owner=owner.hex())
        write_atomically(self._record_path(file_id), msgspec.json.encode(record))
        try:
            path.rename(self.content_path(file_id))
        except OSError:
            self._record_path(file_id).unlink(missing_ok=True)
            raise
        self._records[file_id] = record
        return file

    def has(self, file_id: str) -> bool:
        """Whether anybody has a file of that id."""
        return file_id in self._records

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
        file = self.get(owner, file_id)
        self._record_path(file_id).unlink(missing_ok=True)
        self.content_path(file_id).unlink(missing_ok=True)
        del self._records[file_id]
        self.room.give_back(file.bytes)

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
                self.room.find(record.file.bytes)
            else:
                path.unlink()
        for path in self._folder.glob("file-*.data"):
            if path.stem not in self._records:
                path.unlink()

    def _too_large(self) -> ApiError:
        message = (
            f"The file is too large: a file may have {self._max_file_bytes} bytes and all files together "
            f"{self.room.max_bytes}, of which {self.room.taken_bytes} are taken, uploads and batches under way included. "
            "Delete files, or raise --max-file and --max-files."
        )
        return ApiError(413, message, param="file", code="file_too_large")


def new_file_id() -> str:
    """An id that no file has."""
    return f"file-{secrets.token_hex(12)}"
