"""`/v1/files`: what a file is to clients."""

from collections.abc import Sequence
from typing import Any

import msgspec

PURPOSES = frozenset(("assistants", "batch", "batch_output", "evals", "fine-tune", "user_data", "vision"))


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is kept; times are in Unix seconds."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"
    expires_at: int | None = None


def encode_file(file: FileObject) -> bytes:
    """The file's description."""
    return msgspec.json.encode(file)


def encode_list(items: Sequence[Any], *, has_more: bool) -> bytes:
    """A page of a list of anything that has an id."""
    ends = {"first_id": items[0].id, "last_id": items[-1].id} if items else {"first_id": None, "last_id": None}
    return msgspec.json.encode({"object": "list", "data": items, **ends, "has_more": has_more})


def encode_deleted(file_id: str) -> bytes:
    """That a file is gone."""
    return msgspec.json.encode({"id": file_id, "object": "file", "deleted": True})
