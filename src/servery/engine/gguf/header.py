"""The header of a GGUF file: its metadata, and where each tensor lies. Pure Python; the weights are not touched.

The format is GGUF version 2 or 3, little-endian (ggml/docs/gguf.md in ggml-org/ggml). A header is not trusted: every
length in it is held against the file's size and against the limits below before anything is made of it.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servery.engine.errors import LoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Far above what any model has (262,144 tokens, 600,000 merges, some thousand tensors), far below what would hurt.
MAX_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ARRAY_VALUES = 1 << 23  # in all arrays together
MAX_NAME_BYTES = 1 << 16
MAX_STRING_BYTES = 1 << 24
MAX_DIMENSIONS = 4

_STRING, _ARRAY = 8, 9
# Type number -> format of `struct`.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as the header describes it. `dims` has the length of a row first; `offset` counts from the data's start.

    `kind` is the number of its ggml type.
    """

    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Array:
    """An array in the metadata, decoded when it is asked for."""

    path: Path
    key: str
    kind: int
    count: int
    _data: bytes

    def __str__(self) -> str:
        what = "strings" if self.kind == _STRING else "numbers"
        return f"a list of {self.count} {what}"

    def strings(self) -> list[str]:
        """The strings; raises `LoadError` if it holds something else."""
        if self.kind != _STRING:
            raise LoadError(f"{self.path}: {self.key} is {self}; it must be a list of strings.")
        return list(self._strings())

    def numbers(self) -> list[Any]:
        """The numbers or booleans; raises `LoadError` if it holds strings."""
        if self.kind == _STRING:
            raise LoadError(f"{self.path}: {self.key} is {self}; it must be a list of numbers.")
        return list(struct.unpack(f"<{self.count}{_SCALARS[self.kind]}", self._data))

    def _strings(self) -> Iterator[str]:
        data, position = self._data, 0
        for index in range(self.count):
            (length,) = _U64.unpack_from(data, position)
            position += 8 + length
            yield _text(data[position - length : position], self.path, f"string {index} of {self.key}")


Value = int | float | bool | str | Array


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the weights of one file. `data_offset` is where these begin, `file_bytes` where they end."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """Read the header of the file `path`; raises `LoadError` saying what is wrong with it and where."""
    if path.exists() and not path.is_file():  # to open a pipe waits for a writer
        raise LoadError(f"{path} is not a file.")
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            if file_bytes < 24 or file.read(4) != MAGIC:
                raise LoadError(f"{path} is not a GGUF file: it does not begin with GGUF.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(path, data))
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error


def _read(cursor: "_Cursor") -> Header:
    _check_version(cursor)
    num_tensors = cursor.count("the number of tensors", MAX_TENSORS, least_bytes=32)
    num_entries = cursor.count("the number of metadata entries", MAX_ENTRIES, least_bytes=13)
    metadata = _metadata(cursor, num_entries)
    tensors = _tensors(cursor, num_tensors)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_NAME_BYTES or alignment & (alignment - 1):
        raise LoadError(f"{cursor.path}: general.alignment is {alignment}; it must be a power of two up to 65536.")
    data_offset = -(-cursor.position // alignment) * alignment
    misplaced = next((info for info in tensors.values() if info.offset % alignment), None)
    if misplaced is not None:
        raise LoadError(
            f"{cursor.path}: tensor {misplaced.name} begins at {misplaced.offset}; offsets must be multiples of "
            f"{alignment}. The file is damaged."
        )
    return Header(cursor.path, metadata, tensors, data_offset, cursor.size)


def _check_version(cursor: "_Cursor") -> None:
    version = cursor.u32("the version")
    if version in VERSIONS:
        return
    if version & 0xFFFF == 0 and version != 0:
        raise LoadError(f"{cursor.path} is a big-endian GGUF file; convert it anew for little-endian machines.")
    raise LoadError(
        f"{cursor.path} is a GGUF file of version {version}; versions 2 and 3 can be read. Convert the model anew."
    )


def _metadata(cursor: "_Cursor", num_entries: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for number in range(num_entries):
        key = cursor.string(f"the key of metadata entry {number}", MAX_NAME_BYTES)
        if key in metadata:
            raise LoadError(f"{cursor.path}: the key {key} stands twice in the metadata. The file is damaged.")
        metadata[key] = _value(cursor, key)
    return metadata


def _value(cursor: "_Cursor", key: str) -> Value:
    kind = cursor.u32(f"the type of {key}")
    if kind == _STRING:
        return cursor.string(key, MAX_STRING_BYTES)
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind not in _SCALARS:
        raise LoadError(f"{cursor.path}: {key} has the type {kind}, which GGUF does not know. The file is damaged.")
    layout = struct.Struct(f"<{_SCALARS[kind]}")
    value: Value = layout.unpack(cursor.take(layout.size, key))[0]
    return value


def _array(cursor: "_Cursor", key: str) -> Array:
    kind = cursor.u32(f"the type of what {key} lists")
    if kind != _STRING and kind not in _SCALARS:
        what = "lists" if kind == _ARRAY else f"values of type {kind}"
        raise LoadError(f"{cursor.path}: {key} is a list of {what}, which no model needs. The file is damaged.")
    size = 8 if kind == _STRING else struct.calcsize(f"<{_SCALARS[kind]}")
    count = cursor.count(f"the length of {key}", cursor.values_left, least_bytes=size)
    cursor.values_left -= count
    start = cursor.position
    if kind == _STRING:
        cursor.skip_strings(count, key)
    else:
        cursor.skip(count * size, key)
    return Array(cursor.path, key, kind, count, cursor.data[start : cursor.position])


def _tensors(cursor: "_Cursor", num_tensors: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for number in range(num_tensors):
        name = cursor.string(f"the name of tensor {number}", MAX_NAME_BYTES)
        num_dims = cursor.u32(f"the dimensions of tensor {name}")
        if not 1 <= num_dims <= MAX_DIMENSIONS:
            raise LoadError(
                f"{cursor.path}: tensor {name} has {num_dims} dimensions; 1 to {MAX_DIMENSIONS} are possible."
            )
        dims = tuple(cursor.u64(f"the dimensions of tensor {name}") for _ in range(num_dims))
        if name in tensors or 0 in dims:
            fault = "stands twice in the header" if name in tensors else f"has the dimensions {list(dims)}"
            raise LoadError(f"{cursor.path}: tensor {name} {fault}. The file is damaged.")
        kind = cursor.u32(f"the type of tensor {name}")
        tensors[name] = TensorInfo(name, dims, kind, cursor.u64(f"the offset of tensor {name}"))
    return tensors


class _Cursor:
    """Reads from the front of a file; what would lie past its end is an error that says what was being read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.position = len(MAGIC)
        self.values_left = MAX_ARRAY_VALUES

    def take(self, num_bytes: int, what: str) -> bytes:
        start = self.position
        self.skip(num_bytes, what)
        return self.data[start : self.position]

    def skip(self, num_bytes: int, what: str) -> None:
        if num_bytes > self.size - self.position:
            raise self._truncated(what)
        self.position += num_bytes

    def skip_strings(self, count: int, what: str) -> None:
        data, position, last = self.data, self.position, self.size - 8
        for _ in range(count):
            if position > last:
                raise self._truncated(what)
            position += 8 + _U64.unpack_from(data, position)[0]
        if position > self.size:
            raise self._truncated(what)
        self.position = position

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str, limit: int) -> str:
        length = self.u64(what)
        if length > limit:
            raise LoadError(f"{self.path}: {what} is said to have {length} bytes; at most {limit} can be read.")
        return _text(self.take(length, what), self.path, what)

    def count(self, what: str, limit: int, least_bytes: int) -> int:
        """A number of things of at least `least_bytes` each, all of which must still fit into the file."""
        value = self.u64(what)
        if value > min(limit, (self.size - self.position) // least_bytes):
            raise LoadError(
                f"{self.path}: {what} is {value}; at most {limit} can be read, and the rest of the file has "
                f"{self.size - self.position} bytes. The file is damaged or truncated."
            )
        return value

    def _truncated(self, what: str) -> LoadError:
        return LoadError(f"{self.path} ends at byte {self.size}, before {what}. It is truncated: download it again.")


def _text(data: bytes, path: Path, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: {what} is not valid UTF-8. The file is damaged.") from error
