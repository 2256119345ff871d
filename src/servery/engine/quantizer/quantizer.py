"""Quantizes a model layer by layer, as its weights are read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import DenseMatrix, Matrix, stack_rows
from servery.engine.quantization.rounding import coded
from servery.engine.quantization.scheme import Rounding, RoundingPlan
from servery.engine.quantizer.awq import LayerTensors, scale_layer
from servery.engine.quantizer.calibration import CalibrationRun
from servery.engine.weight_map import Target, targets_of
from servery.engine.weights import Weights

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Quantizer:
    """Rounds the matrices of one layer after the other, in order. All is computed in float32.

    With `sequences` of tokens, the sample to calibrate on, channels are scaled before; without, values are rounded as
    they are. (Clipping a group's range as well was tried and lost more than it gained.)
    """

    def __init__(self, config: ModelConfig, plan: RoundingPlan, sequences: Sequence[Sequence[int]] | None) -> None:
        self.plan = plan
        self._config = config
        self._sequences = sequences
        self._run: CalibrationRun | None = None
        self._targets = {target.key: target for target in targets_of(config)}

    def begin(self, ends: Weights, hidden: Tensor | None = None) -> None:
        """Start with the weights around the layers, of any type; nothing of them is changed.

        With `hidden`, what it was after some layer, go on after that one.
        """
        if self._sequences is not None:
            self._run = CalibrationRun(self._config, self._sequences, _in_float32(ends))
            if hidden is not None:
                self._run.hidden = hidden

    @property
    def hidden(self) -> Tensor | None:
        """What the next layer is given of the sample to calibrate on, None without one."""
        return None if self._run is None else self._run.hidden

    def layer(self, index: int, weights: Weights) -> Weights:
        """Layer `index` quantized; `weights` are dense and float32, and may be changed.

        Raises `LoadError` naming a matrix that is quantized already or holds values that are not finite.
        """
        for key, parts in weights.matrices.items():
            _refuse_unfit(self._targets[f"{index}.{key}"], parts)
        seen = self._run.run(index, weights) if self._run is not None else {}
        layer = LayerTensors({key: _stacked(parts) for key, parts in weights.matrices.items()}, weights.tensors)
        roundings = self._roundings(index, layer)
        if seen:
            stored_dtype = _DTYPES.get(self._config.dtype or "", torch.float32)
            scale_layer(self._config, layer, seen, roundings, stored_dtype)
        matrices = {}
        for key, weight in layer.matrices.items():
            whole = coded(weight, roundings[key]) if key in roundings else DenseMatrix(weight)
            matrices[key] = _split(whole, weights.matrices[key])
        return Weights(matrices, layer.tensors, torch.float32)

    def _roundings(self, index: int, layer: LayerTensors) -> dict[str, Rounding]:
        """The rounding of each matrix that is rounded; the parts of one have the same."""
        modules = {key: self._targets[f"{index}.{key}"].sources[0].module for key in layer.matrices}
        return {key: self.plan.roundings[name] for key, name in modules.items() if name in self.plan.roundings}


def _refuse_unfit(target: Target, parts: Sequence[Matrix]) -> None:
    for source, part in zip(target.sources, parts, strict=True):
        if not isinstance(part, DenseMatrix):
            raise LoadError(f"{source.module} is stored quantized already; the model can be served as it is.")
        if not bool(part.weight.isfinite().all()):
            raise LoadError(f"{source.module} holds values that are not finite, which cannot be rounded to codes.")


def _stacked(parts: Sequence[Matrix]) -> Tensor:
    whole = stack_rows(parts)
    assert isinstance(whole, DenseMatrix)
    return whole.weight


def _split(whole: Matrix, parts: Sequence[Matrix]) -> tuple[Matrix, ...]:
    split, first = [], 0
    for part in parts:
        split.append(whole.select_rows(slice(first, first + part.shape[0])))
        first += part.shape[0]
    return tuple(split)


def _in_float32(ends: Weights) -> Weights:
    return Weights(ends.matrices, {key: tensor.float() for key, tensor in ends.tensors.items()}, torch.float32)
