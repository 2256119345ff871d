"""The weights of a checkpoint, read target by target: nothing missing, nothing left over."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.checkpoint import Checkpoint, StoredTensor, in_file
from servery.engine.cut import WHOLE, Cut
from servery.engine.device_kernels import DeviceKernels
from servery.engine.errors import LoadError
from servery.engine.gguf.files import find_gguf
from servery.engine.linear import Linear, linear_of
from servery.engine.native.library import NativeContext
from servery.engine.parallel.part import Part
from servery.engine.parallel.summed import SummedLinear
from servery.engine.parallel.team import Team
from servery.engine.placing import Expecting
from servery.engine.quantization.checkpoint_format import read_format
from servery.engine.quantization.format import StoredModule, WeightFormat, check_float, check_shape
from servery.engine.quantization.matrix import DenseMatrix, Matrix
from servery.engine.quantization.matrix_parts import moved, select
from servery.engine.stacked_experts import unstacked
from servery.engine.supported import ARCHITECTURES
from servery.engine.weight_map import Source, Target, targets_of

if TYPE_CHECKING:
    from servery.engine.gguf_checkpoint import GgufCheckpoint

Progress = Callable[[int, int], None]
# Makes of a tensor, which may be a mapped file, one that is computed with, of a type: in memory, or on a device.
Place = Callable[[Tensor, torch.dtype], Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one layer, or of what stands around the layers, by key.

    `matrices` are those of linear layers, one for each stored module whose rows they have; `tensors` are the others.
    `dtype` is that of dense values, and what the layers will be given. `native`, or a
    device's `kernels`, compute the layers; where there are none, torch does.
    `team` are the processes that have the rest of the same layers, if there are any.
    """

    matrices: dict[str, tuple[Matrix, ...]]
    tensors: dict[str, Tensor]
    dtype: torch.dtype
    native: NativeContext | None = None
    team: Team | None = None
    kernels: DeviceKernels | None = None

    def linear(self, key: str) -> Linear:
        """The linear layer `key`, with its bias if it has one."""
        return self._linear(key, self.tensors.get(f"{key}.bias"))

    def summed(self, key: str) -> Linear:
        """The linear layer `key`, whose input columns are divided among the team if there is one."""
        if self.team is None:
            return self.linear(key)
        return SummedLinear(self._linear(key, None), self.tensors.get(f"{key}.bias"), self.team)

    def _linear(self, key: str, bias: Tensor | None) -> Linear:
        return linear_of(self.matrices[key], bias, dtype=self.dtype, native=self.native, kernels=self.kernels)

    def placed(self, place: Place) -> "Weights":
        """The same where `place` puts it."""
        matrices = {key: tuple(_placed(part, place) for part in parts) for key, parts in self.matrices.items()}
        return replace(self, matrices=matrices, tensors={k: place(t, t.dtype) for k, t in self.tensors.items()})

    def to(self, dtype: torch.dtype) -> "Weights":
        """The same with dense values as `dtype`."""
        matrices = {key: tuple(_as_dtype(part, dtype) for part in parts) for key, parts in self.matrices.items()}
        return Weights(matrices, {key: tensor.to(dtype) for key, tensor in self.tensors.items()}, dtype)


class WeightReader:
    """Reads a checkpoint whose files are open. Dense values become `dtype`; other layouts stay as they are.

    `directory` and `files` are named in complaints. `progress` is told (bytes of the model done, bytes in total) after
    each tensor; `total_bytes` is what the weights will hold in memory; `stored` are all tensors by name. With a `part`
    that is read and no more: layers are numbered as those of the part, and `read_bytes` is what of the files was read (of
    GGUF, what that takes in memory).
    """

    def __init__(
        self,
        stored: Mapping[str, StoredTensor],
        weight_format: WeightFormat,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        directory: Path,
        files: str,
        progress: Progress | None = None,
        part: Part | None = None,
    ) -> None:
        self.stored = stored
        self._part = part
        self.read_bytes = 0
        self._format = weight_format
        self.dtype = dtype
        self._progress = progress
        targets = targets_of(config)
        self._targets = _by_layer([target for target in targets if part is None or part.has(target.key)])
        sources = [source for target in targets for source in target.sources]
        self._modules, strange = _sort(stored, sources, directory / files)
        _refuse_missing([each for each in sources if not self._has(each)], directory, files)
        _refuse_strange(stored, [name for name in strange if not _is_redundant(name, config, weight_format)])
        self.total_bytes = sum(
            self._bytes_of(source, self._cut(target.key, source))
            for of_layer in self._targets.values()
            for target in of_layer
            for source in target.sources
        )
        self._done_bytes = 0
        self._expected: set[int | None] = set()

    def read(
        self, layer: int | None, dtype: torch.dtype | None = None, *, may_map: bool = False, place: Place | None = None
    ) -> Weights:
        """Those of a layer, with keys such as "qkv"; with None the embedding, the last norm and an untied head.

        `dtype` is what dense values become, where it shall be another this time. With `may_map` matrices that have it
        already are the mapped file itself, for who packs them before it is closed. With `place` all is where that puts it.
        """
        if isinstance(place, Expecting):
            self._expect(place, layer)
        reading = _Reading(dtype or self.dtype, may_map, place)
        weights = Weights({}, {}, reading.dtype)
        for target in self._targets.get(None if layer is None else layer + self._first_layer, ()):
            cuts = [(source, self._cut(target.key, source)) for source in target.sources]
            if target.is_matrix:
                weights.matrices[target.key] = tuple(self._matrix(source, cut, reading) for source, cut in cuts)
            else:
                weights.tensors[target.key] = torch.cat([self._tensor(source, cut, reading) for source, cut in cuts])
        return weights

    def _expect(self, place: Expecting, layer: int | None) -> None:
        """Let the weights of a layer be on their way, and those of the next one, which will be read in the same way."""
        for each in (None,) if layer is None else (layer, layer + 1):
            if each not in self._expected:
                self._expected.add(each)
                place.expect(self._mapped(each))

    def _mapped(self, layer: int | None) -> Iterator[Tensor]:
        """The tensors of a layer that go to a device as they lie in the file."""
        for target in self._targets.get(None if layer is None else layer + self._first_layer, ()):
            for source in target.sources:
                cut = self._cut(target.key, source)
                if target.is_matrix and self._modules[source.module].is_dense:
                    tensor: StoredTensor = self._modules[source.module].need("weight")
                    if tensor.shape == source.shape and len(cut.rows or ()) < 2:
                        yield from in_file(tensor, cut)
                elif not target.is_matrix and self.stored[source.name].shape == source.shape and cut.is_whole:
                    yield from in_file(self.stored[source.name], cut)

    @property
    def _first_layer(self) -> int:
        return 0 if self._part is None else self._part.layers.start

    def _cut(self, key: str, source: Source) -> Cut:
        return WHOLE if self._part is None else self._part.cut(key, source)

    def _has(self, source: Source) -> bool:
        return bool(self._modules[source.module]) if len(source.shape) == 2 else source.name in self.stored

    def _bytes_of(self, source: Source, cut: Cut) -> int:
        """What it holds once it is read: dense values change their type, others do not."""
        module, values = self._modules.get(source.module), math.prod(cut.shape(source.shape))
        if module is None or module.is_dense or len(source.shape) != 2:
            return values * self._dtype_of(source).itemsize
        return module.nbytes * values // math.prod(source.shape)

    def _matrix(self, source: Source, cut: Cut, reading: "_Reading") -> Matrix:
        module = self._modules[source.module]
        rows, columns = source.shape
        part = None if cut.is_whole else self._format.divided(module, (rows, columns), cut)
        if part is None:  # nothing is left out, or borders go through what is stored as one
            matrix = select(self._format.matrix(source.module, (rows, columns), module), cut.rows, cut.columns)
        else:
            matrix = self._format.matrix(source.module, part.shape, part)
        left = [f"{source.module}.{suffix}" for suffix in module if suffix not in module.used]
        _refuse_strange(self.stored, [name for name in left if not self._format.is_redundant(name)])
        self._tell(source, cut)
        self.read_bytes += (module if part is None else part).used_bytes
        dtype = torch.float32 if source.is_exact else reading.dtype
        if isinstance(matrix, DenseMatrix):
            is_mapped = reading.may_map and matrix.weight.dtype == dtype and not source.is_exact
            return matrix if is_mapped else DenseMatrix(reading.put(matrix.weight, dtype))
        return matrix if reading.place is None and cut.is_whole else _placed(matrix, reading.put)

    def _tensor(self, source: Source, cut: Cut, reading: "_Reading") -> Tensor:
        stored = self.stored[source.name]
        check_shape(stored, source.shape)
        check_float(stored)
        self._tell(source, cut)
        mapped = stored.load()
        if cut.rows is not None:
            mapped = torch.cat([mapped[each] for each in cut.rows])
        self.read_bytes += mapped.nbytes
        own = reading.put(mapped, torch.float32 if source.is_exact else reading.dtype)
        is_elsewhere = cut.is_summed and self._part is not None and self._part.ranks.tensor_rank
        return own.zero_() if is_elsewhere else own

    def _dtype_of(self, source: Source) -> torch.dtype:
        return torch.float32 if source.is_exact else self.dtype

    def _tell(self, source: Source, cut: Cut) -> None:
        self._done_bytes += self._bytes_of(source, cut)
        if self._progress is not None:
            self._progress(self._done_bytes, self.total_bytes)


@contextmanager
def open_weights(
    path: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    progress: Progress | None = None,
    part: Part | None = None,
) -> Iterator[WeightReader]:
    """A reader for the checkpoint in directory `path`, or for the GGUF file `path`, while its files are open.

    `config` is of the whole model, also where only a `part` of it is read.

    Raises `LoadError` naming file and tensor when the checkpoint is damaged or does not fit `config`.
    """
    first = find_gguf(path)
    weight_format, checkpoint = _in_directory(path) if first is None else _in_gguf(first, config)
    directory = path if first is None else first.parent
    files = ", ".join(file.name for file in checkpoint.listed)
    experts = ARCHITECTURES[config.architecture].experts
    with checkpoint.open() as files_tensors:
        stored = unstacked(files_tensors, () if experts is None else experts.stacks)
        yield WeightReader(
            stored, weight_format, config, dtype, directory=directory, files=files, progress=progress, part=part
        )


def _in_directory(directory: Path) -> tuple[WeightFormat, Checkpoint]:
    return read_format(directory), Checkpoint.find(directory)


def _in_gguf(first: Path, config: ModelConfig) -> "tuple[WeightFormat, GgufCheckpoint]":
    from servery.engine.gguf_checkpoint import GgufCheckpoint  # the package gguf brings a HTTP client along
    from servery.engine.quantization.gguf_format import GgufFormat

    return GgufFormat(), GgufCheckpoint.find(first, config)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How tensors are read: see `WeightReader.read`."""

    dtype: torch.dtype
    may_map: bool
    place: Place | None

    def put(self, mapped: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy in memory, so that the file may change, or on a device."""
        return mapped.to(dtype, copy=True) if self.place is None else self.place(mapped, dtype)


def _placed(matrix: Matrix, place: Place) -> Matrix:
    return moved(matrix, lambda tensor: place(tensor, tensor.dtype))


def _as_dtype(matrix: Matrix, dtype: torch.dtype) -> Matrix:
    return DenseMatrix(matrix.weight.to(dtype)) if isinstance(matrix, DenseMatrix) else matrix


def _by_layer(targets: Sequence[Target]) -> dict[int | None, list[Target]]:
    """The targets of each layer, their keys without its number; under None those that belong to no layer."""
    found: dict[int | None, list[Target]] = {}
    for target in targets:
        layer, _, key = target.key.partition(".")
        if layer.isdecimal():
            found.setdefault(int(layer), []).append(Target(key, target.sources))
        else:
            found.setdefault(None, []).append(target)
    return found


def _sort(
    stored: Mapping[str, StoredTensor], sources: Sequence[Source], place: Path
) -> tuple[dict[str, StoredModule], list[str]]:
    """The stored tensors of each module with a matrix, and the names that belong to none of the sources."""
    tensors: dict[str, dict[str, StoredTensor]] = {s.module: {} for s in sources if len(s.shape) == 2}
    plain = {source.name for source in sources if len(source.shape) != 2}
    strange = []
    for name, tensor in stored.items():
        module = None if name in plain else _module_of(name, tensors)
        if module is not None:
            tensors[module][name[len(module) + 1 :]] = tensor
        elif name not in plain:
            strange.append(name)
    return {module: StoredModule(module, found, place) for module, found in tensors.items()}, strange


def _module_of(name: str, modules: Mapping[str, object]) -> str | None:
    """The module that the stored tensor `name` belongs to: what stands before one of its dots."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in modules:
            return name
    return None


def _is_redundant(name: str, config: ModelConfig, weight_format: WeightFormat) -> bool:
    """Rotary frequencies, which old exporters stored; a tied head that was stored all the same; layers for drafts."""
    is_tied_head = config.tie_embeddings and name.startswith("lm_head.")
    layers = range(config.num_layers, config.num_layers + config.num_draft_layers)
    is_draft = any(name.startswith(f"model.layers.{layer}.") for layer in layers)
    return name.endswith("rotary_emb.inv_freq") or is_tied_head or is_draft or weight_format.is_redundant(name)


def _refuse_missing(missing: Sequence[Source], directory: Path, files: str) -> None:
    if not missing:
        return
    names = ", ".join(source.name for source in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise LoadError(f"{directory}: {files} lacks tensor {names}{more}. Download it again.")


def _refuse_strange(stored: Mapping[str, StoredTensor], names: Sequence[str]) -> None:
    if names:
        raise LoadError(
            f"{stored[names[0]].path}: tensor {names[0]} has no place in the model that config.json describes. "
            "The weights and config.json belong to different models."
        )
