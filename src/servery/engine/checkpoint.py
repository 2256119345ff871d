"""The weight files of a checkpoint directory: one safetensors file, or shards listed in an index."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.json_fields import JsonFields

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FLOAT_DTYPES = {"F32", "BF16", "F16"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file that is open and mapped; only `load` reads its data."""

    path: Path
    name: str
    shape: tuple[int, ...]
    _slice: Any = field(repr=False)

    def load(self) -> Tensor:
        """The data, as stored; valid while the iteration that gave this tensor has not moved on."""
        if self._slice.get_dtype() not in _FLOAT_DTYPES:
            raise LoadError(
                f"{self.path}: tensor {self.name} is stored as {self._slice.get_dtype()}; weights must be F32, BF16 "
                "or F16. Quantized checkpoints cannot be loaded: use the original one."
            )
        tensor: Tensor = self._slice[:]
        return tensor


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

    def tensors(self) -> Iterator[StoredTensor]:
        """All tensors, file by file. Raises `LoadError` for a damaged file or one that lacks what the index promises."""
        for path, promised in self.listed.items():
            with _mapped(path) as file:
                names = file.keys()
                absent = sorted((promised or frozenset()) - frozenset(names))
                if absent:
                    raise LoadError(f"{path} lacks tensor {absent[0]}, which {INDEX_FILE} says it has.")
                for name in names:
                    stored = file.get_slice(name)
                    yield StoredTensor(path, name, tuple(stored.get_shape()), stored)


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
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise LoadError(
            f"{path} is damaged ({error}); it has {path.stat().st_size} bytes. Download it again."
        ) from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error}.") from error
