"""The weight files of a checkpoint directory: one safetensors file, or shards listed in an index."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from servery.engine.cut import Cut
from servery.engine.errors import LoadError, NotEnoughMemory
from servery.engine.json_fields import JsonFields

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# The names that safetensors gives types of other sizes end in the number of bits.
_BYTES_PER_VALUE = {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


class StoredTensor(Protocol):
    """A tensor in a file that is open and mapped; only `load` reads its data."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def name(self) -> str:
        """Its whole name in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        ...

    @property
    def dtype(self) -> str:
        """The type of its values as safetensors calls it: `BF16`, `F8_E4M3`, `I32`."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of its data in the file."""
        ...

    def load(self) -> Tensor:
        """The data, as stored. It is the mapped file itself: copy what shall outlive the reading."""
        ...


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """A `StoredTensor` of a safetensors file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    _slice: Any = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of its data in the file."""
        bits = int("".join(filter(str.isdigit, self.dtype)) or 8)
        return math.prod(self.shape) * _BYTES_PER_VALUE.get(self.dtype, bits // 8)

    def load(self) -> Tensor:
        """The data, as stored and mapped."""
        tensor: Tensor = self._slice[...]
        return tensor


def in_file(tensor: StoredTensor, cut: Cut) -> Iterator[Tensor]:
    """The part of a tensor as it lies in its file, nothing of it read; none where it does not lie there so."""
    if tensor.path.suffix.lower() != ".safetensors":
        return  # its values may be put in another order
    data = tensor.load()
    for rows in cut.rows or ():
        data = data[rows]
    yield data if cut.columns is None else data[:, cut.columns]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files that hold the weights. `listed` maps each file to the tensors an index promises, if there is one."""

    directory: Path
    listed: dict[Path, frozenset[str] | None]

    @classmethod
    def find(cls, directory: Path) -> "Checkpoint":
        """Find the weight files; raises `LoadError` when there are none or when one in the index is missing."""
        if (directory / SINGLE_FILE).exists():
            return cls(directory, {directory / SINGLE_FILE: None})
        if (directory / INDEX_FILE).exists():
            return cls(directory, dict(_shards(directory)))
        others = sorted(path.name for path in directory.glob("*.bin"))
        found = f" It has {', '.join(others)}: convert them to safetensors." if others else ""
        raise LoadError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}.{found}")

    @contextmanager
    def open(self) -> Iterator[dict[str, StoredTensor]]:
        """All tensors by name, while the files are mapped.

        Raises `LoadError` for a damaged file, one that lacks what the index promises, and a tensor that is in two.
        """
        tensors: dict[str, StoredTensor] = {}
        with ExitStack() as files:
            for path, promised in self.listed.items():
                file = files.enter_context(_mapped(path))
                names = file.keys()
                absent = sorted((promised or frozenset()) - frozenset(names))
                if absent:
                    raise LoadError(f"{path} lacks tensor {absent[0]}, which {INDEX_FILE} says it has.")
                for name in names:
                    if name in tensors:
                        raise LoadError(f"{path}: tensor {name} is in another file of the checkpoint as well.")
                    stored = file.get_slice(name)
                    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
                    tensors[name] = SafetensorsTensor(path, name, shape, dtype, stored)
            yield tensors


def _shards(directory: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    index = JsonFields.read(directory / INDEX_FILE)
    weight_map = index.raw("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise index.error("weight_map", "it must map tensor names to file names")
    names_of: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        # A shard lies beside its index: a path that leads elsewhere is not followed.
        if not isinstance(file, str) or PurePath(file).name != file:
            raise LoadError(f"{index.path}: weight_map places {name} in {file!r}; it must be a file name without path.")
        names_of.setdefault(file, set()).add(name)
    for file, names in sorted(names_of.items()):
        path = directory / file
        if not path.exists():
            raise LoadError(f"{path} is missing: {INDEX_FILE} says that it holds {len(names)} tensors. Download it.")
        yield path, frozenset(names)


def _mapped(path: Path) -> Any:
    if not path.is_file():  # to open a pipe waits for a writer, and for the interpreter's lock
        raise LoadError(f"{path} is not a file.")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise LoadError(
            f"{path} is damaged ({error}); it has {path.stat().st_size} bytes. Download it again."
        ) from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}.") from error
    except (RuntimeError, MemoryError) as error:
        size = path.stat().st_size
        raise NotEnoughMemory(
            f"{path} cannot be mapped: the system refuses its {size} bytes of address space ({error}). Raise the limit "
            "that the process was started with (`ulimit -v`), or serve a smaller model.",
            size,
        ) from error
