"""Batches on disk: their state, and the lines of their results as they come."""

import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from servery.batch.disk import write_atomically
from servery.wire.batches import Batch, BatchRequest, RequestCounts
from servery.wire.errors import ApiError, shown

ENDED = frozenset(("failed", "completed", "expired", "cancelled"))
_DAY_S = 24 * 60 * 60


class NotWritten(OSError):
    """The state of a batch could not be written: it is as it was."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    batch: Batch
    owner: str
    key: str = ""


class BatchStore:
    """The batches in `folder`, each its owner's alone; every change is on disk before it is seen, or raises `NotWritten`."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        """Raises `OSError` when the folder cannot be used."""
        self._folder = folder
        self._now = now
        folder.mkdir(parents=True, exist_ok=True)
        decode = msgspec.json.Decoder(_Record).decode
        records = [decode(path.read_bytes()) for path in sorted(folder.glob("batch_*.json"))]
        self._records = {record.batch.id: record for record in records}

    def create(self, owner: bytes, request: BatchRequest, key: str = "") -> Batch:
        """A new batch, to be validated; `key` is the id of the key that it was asked with."""
        now = int(self._now())
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=request.endpoint,
            input_file_id=request.input_file_id,
            created_at=now,
            expires_at=now + _DAY_S,
            metadata=request.metadata,
        )
        self._write(_Record(batch=batch, owner=owner.hex(), key=key))
        return batch

    def change(self, batch_id: str, **changes: Any) -> Batch:
        """The batch with other fields; a `status` is dated in the field that goes with it."""
        record = self._records[batch_id]
        status = changes.get("status")
        if status is not None and f"{status}_at" in Batch.__struct_fields__:
            changes[f"{status}_at"] = int(self._now())
        batch = msgspec.structs.replace(record.batch, **changes)
        self._write(msgspec.structs.replace(record, batch=batch))
        return batch

    def note(self, batch_id: str, counts: RequestCounts) -> None:
        """How far it is; not written, because the lines of its results say the same after a restart."""
        record = self._records[batch_id]
        batch = msgspec.structs.replace(record.batch, request_counts=counts)
        self._records[batch_id] = msgspec.structs.replace(record, batch=batch)

    def read(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        return self._records[batch_id].batch

    def owner(self, batch_id: str) -> bytes:
        """Whose it is."""
        return bytes.fromhex(self._records[batch_id].owner)

    def key(self, batch_id: str) -> str:
        """The id of the key that it was asked with; empty where none was needed."""
        return self._records[batch_id].key

    def get(self, owner: bytes, batch_id: str) -> Batch:
        """The batch of that owner; raises `ApiError` (404), the same for another's as for one that never was."""
        record = self._records.get(batch_id)
        if record is None or record.owner != owner.hex():
            raise ApiError(404, f"There is no batch '{shown(batch_id)}'.", code="batch_not_found")
        return record.batch

    def of(self, owner: bytes) -> list[Batch]:
        """The owner's batches, the newest last."""
        batches = [record.batch for record in self._records.values() if record.owner == owner.hex()]
        return sorted(batches, key=lambda batch: batch.created_at)

    def states(self) -> dict[str, int]:
        """How many batches are in each status that any is in."""
        return dict(Counter(record.batch.status for record in self._records.values()))

    def unfinished(self) -> list[Batch]:
        """What is still to be worked on, the oldest first."""
        batches = [record.batch for record in self._records.values() if record.batch.status not in ENDED]
        return sorted(batches, key=lambda batch: batch.created_at)

    def results_path(self, batch_id: str, kind: str) -> Path:
        """Where the lines of `kind` ("output", "error") are collected."""
        return self._folder / f"{batch_id}.{kind}.jsonl"

    def collected_bytes(self) -> int:
        """The results that are collected and have not become files yet."""
        return sum(path.stat().st_size for path in self._folder.glob("*.jsonl"))

    def _write(self, record: _Record) -> None:
        try:
            write_atomically(self._folder / f"{record.batch.id}.json", msgspec.json.encode(record))
        except OSError as error:
            raise NotWritten(*error.args) from error
        self._records[record.batch.id] = record
