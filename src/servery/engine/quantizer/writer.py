"""Writes a quantized checkpoint, layer by layer: a kill costs one layer, and memory is that of one layer."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from servery import __version__
from servery.engine.architecture import ModelConfig
from servery.engine.checkpoint import INDEX_FILE, Checkpoint
from servery.engine.errors import LoadError
from servery.engine.json_fields import read_optional_json
from servery.engine.quantization.matrix import DenseMatrix, Float8Matrix, GroupMatrix, Matrix
from servery.engine.quantization.scheme import AWQ, RoundingPlan
from servery.engine.quantizer.calibration import read_sample
from servery.engine.quantizer.choice import make_quantizer
from servery.engine.quantizer.compressed import quantization_config, stored_tensors
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.quantizer.unfinished import Unfinished
from servery.engine.weight_map import Source, Target, targets_of
from servery.engine.weights import Progress, WeightReader, Weights, open_weights

CONFIG_FILE = "config.json"
# What holds weights, and is written anew or left out.
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot"})
_STATE = "hidden"


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is complete: where, and the bytes of weights that were read and that it has."""

    path: Path
    bytes_before: int
    bytes_after: int


def write_quantized(
    model: Path, out: Path, plan: RoundingPlan, calibration: Path | None, *, progress: Progress | None = None
) -> Written:
    """Quantize the checkpoint `model` by `plan` into the new folder `out`, which loads like any other.

    If it is stopped, even by a kill, the same call goes on where it was, and what it writes has the same bytes.
    `progress` is told (bytes of the model done, bytes in total) after each layer. Raises `LoadError`.
    """
    if not (model / CONFIG_FILE).is_file():
        raise LoadError(
            f"{model} is not a folder with {CONFIG_FILE} and *.safetensors; only such a model is quantized."
        )
    unfinished = Unfinished(out, _settings(model, plan, calibration))
    if not unfinished.is_finished:
        config = ModelConfig.load(model)
        with unfinished.open(), open_weights(model, config, torch.float32) as reader:
            quantizer = make_quantizer(model, config, plan, calibration)
            _Writer(model, config, reader, quantizer, unfinished, progress).write()
            unfinished.finish()
    return Written(out, _size(Checkpoint.find(model).listed), _size(Checkpoint.find(unfinished.out).listed))


class _Writer:
    """One file for each layer, and one for what stands around them."""

    def __init__(
        self,
        model: Path,
        config: ModelConfig,
        reader: WeightReader,
        quantizer: Quantizer,
        out: Unfinished,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._config = config
        self._reader = reader
        self._quantizer = quantizer
        self._out = out
        self._progress = progress
        self._targets = {target.key: target for target in targets_of(config)}
        self._sources = _sources_by_layer(self._targets)
        self._names = [
            f"model-{n:05}-of-{config.num_layers + 1:05}.safetensors" for n in range(1, config.num_layers + 2)
        ]

    def write(self) -> None:
        """All that is missing. The layers come first: what cannot be quantized is found out before anything is there."""
        first = next((n for n in range(self._config.num_layers) if not self._out.has(self._names[n])), None)
        if first is not None:
            self._go_on_from(first)
            for index in range(first, self._config.num_layers):
                self._write_layer(index)
        if not self._out.has(self._names[-1]):
            tensors = {source.name: self._reader.stored[source.name].load() for source in self._sources[None]}
            self._out.write_tensors(self._names[-1], tensors)
        for state in self._out.listed(_state_file("*")):  # more than one if a kill came between two steps
            self._out.remove(state)
        self._write_rest()

    def _go_on_from(self, index: int) -> None:
        state = _state_file(f"{index:05}")
        if index and self._quantizer.plan.method == AWQ and not self._out.has(state):
            raise LoadError(f"{self._out.folder / state} is missing, without which it cannot go on; remove the folder.")
        hidden = self._out.read_tensor(state, _STATE) if self._out.has(state) else None
        self._quantizer.begin(self._reader.read(None), hidden)

    def _write_layer(self, index: int) -> None:
        """The state for the next layer is there before this one is, and goes when the next one is."""
        quantized = self._quantizer.layer(index, self._reader.read(index, torch.float32))
        if self._quantizer.hidden is not None:
            self._out.write_tensors(_state_file(f"{index + 1:05}"), {_STATE: self._quantizer.hidden})
        self._out.write_tensors(self._names[index], dict(self._stored(index, quantized)))
        self._out.remove(_state_file(f"{index:05}"))
        self._tell(index + 1)

    def _stored(self, index: int, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        for key, parts in weights.matrices.items():
            for source, matrix in zip(self._targets[f"{index}.{key}"].sources, parts, strict=True):
                yield from self._stored_matrix(source, matrix).items()
        for key, tensor in weights.tensors.items():
            sources = self._targets[f"{index}.{key}"].sources
            for source, part in zip(sources, torch.split(tensor, [each.shape[0] for each in sources]), strict=True):
                yield source.name, self._as_stored(source, part)

    def _stored_matrix(self, source: Source, matrix: Matrix) -> dict[str, Tensor]:
        if isinstance(matrix, GroupMatrix | Float8Matrix):
            return stored_tensors(source.module, matrix)
        assert isinstance(matrix, DenseMatrix)
        return {source.name: self._as_stored(source, matrix.weight)}

    def _as_stored(self, source: Source, tensor: Tensor) -> Tensor:
        """Of the type that it was stored as; float32 holds each of them, so that what was not changed is the same."""
        return tensor.to(self._reader.stored[source.name].load().dtype).contiguous()

    def _tell(self, num_layers: int) -> None:
        if self._progress is not None:
            sizes = {layer: sum(map(self._bytes_of, sources)) for layer, sources in self._sources.items()}
            done = sum(sizes[layer] for layer in (None, *range(num_layers)))
            self._progress(done, sum(sizes.values()))

    def _bytes_of(self, source: Source) -> int:
        return self._reader.stored[source.name].nbytes

    def _write_rest(self) -> None:
        """The index, the config, and what the tokenizer and others need."""
        total, weight_map = 0, {}
        for name in self._names:
            for tensor, size in _listed(self._out.folder / name):
                weight_map[tensor] = name
                total += size
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        self._out.write(INDEX_FILE, json.dumps(index, indent=2).encode() + b"\n")
        fields = read_optional_json(self._model / CONFIG_FILE)
        fields["quantization_config"] = quantization_config(self._config, self._quantizer.plan)
        self._out.write(CONFIG_FILE, json.dumps(fields, indent=2).encode() + b"\n")
        for path in _others(self._model):
            if not self._out.has(path.name):
                self._out.write(path.name, path.read_bytes())


def _sources_by_layer(targets: Mapping[str, Target]) -> dict[int | None, list[Source]]:
    found: dict[int | None, list[Source]] = {}
    for key, target in targets.items():
        layer = key.partition(".")[0]
        found.setdefault(int(layer) if layer.isdecimal() else None, []).extend(target.sources)
    return found


def _listed(path: Path) -> Iterator[tuple[str, int]]:
    """The tensors of a file with their bytes."""
    with Checkpoint(path.parent, {path: None}).open() as stored:
        yield from [(name, tensor.nbytes) for name, tensor in stored.items()]


def _others(model: Path) -> list[Path]:
    """The files of a checkpoint that hold neither weights nor their list, nor the config."""
    return [
        path
        for path in sorted(model.iterdir())
        if path.is_file()
        and path.suffix not in _WEIGHT_SUFFIXES
        and not path.name.endswith(".index.json")
        and path.name != CONFIG_FILE
    ]


def _state_file(number: str) -> str:
    """What the text has become before the layer of this number, in five digits."""
    return f"calibration-{number}.safetensors"


def _settings(model: Path, plan: RoundingPlan, calibration: Path | None) -> dict[str, Any]:
    """What decides the bytes that are written."""
    uses_text = plan.method == AWQ
    return {
        "servery": __version__,
        "scheme": plan.scheme,
        "group_size": plan.group_size,
        "method": plan.method,
        "calibration_sha256": _sha256([read_sample(calibration).encode()]) if uses_text else None,
        "model_sha256": _sha256(_fingerprint(model)),
    }


def _fingerprint(model: Path) -> Iterator[bytes]:
    """The contents of small files; of weights, the header with the place of each tensor, the size and the time."""
    for path in [*_others(model), model / CONFIG_FILE]:
        yield path.name.encode() + path.read_bytes()
    for path in sorted(Checkpoint.find(model).listed):
        with path.open("rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little") % (100 << 20))
        stat = path.stat()
        yield header + f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
