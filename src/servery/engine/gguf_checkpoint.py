"""The weights of a GGUF model under the names of a checkpoint in Hugging Face layout, mapped and not yet read."""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.checkpoint import StoredTensor
from servery.engine.errors import LoadError
from servery.engine.gguf.families import FAMILIES
from servery.engine.gguf.files import GgufModel, open_gguf
from servery.engine.gguf.header import Header, TensorInfo
from servery.engine.gguf.names import NOT_WEIGHTS, gguf_names
from servery.engine.quantization.gguf_blocks import HELD_BITS
from servery.engine.supported import ARCHITECTURES
from servery.engine.weight_map import targets_of

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A `StoredTensor` of a GGUF file. `shape` is that of the values; `dtype` the name of the ggml type: `Q4_K`.

    Its rows belong to `interleaved_heads` heads whose halves were interleaved when they were stored, 0 for none;
    `load` gives them in their own order. `nbytes` is what its matrix takes in memory, which for codes of 5 and 6 bits is
    more than the `stored_bytes` in the file. `shift` was added to the values when they were stored.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    stored_bytes: int
    shift: float = 0.0
    interleaved_heads: int = 0
    _data: Any = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in memory once it is read."""
        # What has no layout of its own is dequantized, at most to float32.
        return int(math.prod(self.shape) * HELD_BITS.get(self.dtype, 32.0) / 8)

    def load(self) -> Tensor:
        """The values if they are F32, F16 or BF16; else the blocks, uint8 [..., blocks, bytes per block]."""
        raw = torch.frombuffer(self._data, dtype=torch.uint8, count=self.stored_bytes, offset=self.offset)
        if self.dtype in _FLOATS:
            values = self._in_order(raw.view(_FLOATS[self.dtype]).view(self.shape))
            return values if not self.shift else values - self.shift
        block_values, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.dtype]]
        return self._in_order(raw.view(*self.shape[:-1], self.shape[-1] // block_values, block_bytes))

    def _in_order(self, rows: Tensor) -> Tensor:
        if not self.interleaved_heads:
            return rows
        pairs = rows.reshape(self.interleaved_heads, -1, 2, *rows.shape[1:])
        return pairs.swapaxes(1, 2).reshape(rows.shape)

    def part(self, number: int) -> "GgufTensor":
        """One of the tensors that lie in this one, along its first dimension."""
        stored_bytes = self.stored_bytes // self.shape[0]
        offset = self.offset + number * stored_bytes
        return replace(self, shape=self.shape[1:], stored_bytes=stored_bytes, offset=offset)


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """The tensors of the model that a `ModelConfig` describes, by their names there; all lie within their files."""

    model: GgufModel
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def find(cls, path: Path, config: ModelConfig) -> "GgufCheckpoint":
        """Find each tensor in the model whose first file is `path`. Nothing but the headers is read.

        Raises `LoadError` for a tensor that is missing, left over, of an unknown type, or beyond the end of its file.
        """
        model = open_gguf(path)
        stored = {info.name: _tensor(header, info) for header, info in model.tensors()}
        architecture = ARCHITECTURES[config.architecture]
        family = FAMILIES[str(model.metadata["general.architecture"])]
        found: dict[str, GgufTensor] = {}
        used: set[str] = set()
        for source in (source for target in targets_of(config) for source in target.sources):
            places = gguf_names(source.name, architecture)
            place, expert = next((each for each in places if each[0] in stored), (None, None))
            if place is None:
                raise LoadError(f"{path} lacks tensor {places[0][0] if places else source.name}. Download it again.")
            used.add(place)
            tensor = _placed(stored[place], expert, source.shape)
            found[source.name] = replace(
                tensor,
                shift=1.0 if family.shifts_norms and source.name.endswith("norm.weight") else 0.0,
                interleaved_heads=_heads(source.module, config) if family.interleaves else 0,
            )
        _refuse_left_over(path, stored.keys() - used - NOT_WEIGHTS)
        return cls(model, found)

    @property
    def listed(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(header.path for header in self.model.headers)

    @contextmanager
    def open(self) -> Iterator[dict[str, StoredTensor]]:
        """All tensors by name, while the files are mapped."""
        data = {header.path: _mapped(header.path) for header in self.model.headers}
        yield {name: replace(tensor, _data=data[tensor.path]) for name, tensor in self.tensors.items()}


def _tensor(header: Header, info: TensorInfo) -> GgufTensor:
    kind = _kind(header, info)
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    if info.dims[0] % block_values:
        raise LoadError(
            f"{header.path}: tensor {info.name} has rows of {info.dims[0]} values; those of type {kind.name} come in "
            f"blocks of {block_values}. The file is damaged."
        )
    nbytes, offset = math.prod(info.dims) // block_values * block_bytes, header.data_offset + info.offset
    if offset + nbytes > header.file_bytes:
        raise LoadError(
            f"{header.path} has {header.file_bytes} bytes, but tensor {info.name} ends at byte {offset + nbytes}. It "
            "is truncated: download it again."
        )
    return GgufTensor(header.path, info.name, info.dims[::-1], kind.name, offset, nbytes)


def _kind(header: Header, info: TensorInfo) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(info.kind)
    except ValueError as error:
        raise LoadError(
            f"{header.path}: tensor {info.name} has the type {info.kind}, which this version of the package gguf does "
            "not know. The file is damaged or newer."
        ) from error


def _heads(module: str, config: ModelConfig) -> int:
    """How many heads rotate what the rows of `module` make, 0 for none."""
    return {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(module.rpartition(".")[2], 0)


def _placed(tensor: GgufTensor, expert: int | None, shape: tuple[int, ...]) -> GgufTensor:
    """The tensor, or its part for one expert, of the shape that the metadata asks for."""
    lead = () if expert is None else (max(tensor.shape[0], expert + 1),)
    if tensor.shape != (*lead, *shape):
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} has shape {list(tensor.shape)}; by the metadata it must be "
            f"{[*lead, *shape]}."
        )
    return tensor if expert is None else tensor.part(expert)


def _refuse_left_over(path: Path, names: Iterable[str]) -> None:
    left = sorted(names)
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise LoadError(
            f"{path} has tensor {', '.join(left[:3])}{more}, which has no place in the model that its metadata "
            "describes. It is of another kind than its general.architecture says."
        )


def _mapped(path: Path) -> mmap.mmap:
    """The file in memory, copied where it is written to, which nobody does: torch takes no memory that is read-only."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}.") from error
