"""A decoder's layers as the native loop is told of them: sizes and pointers, made once.

Pointers keep nothing alive: whoever has the structs holds the layers, and the `kept` tensors, too.
"""

from collections.abc import Sequence
from ctypes import pointer
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.decoder import Layer, Norm, Post
from servery.engine.mlp import GatedMLP
from servery.engine.native.library import (
    ACTIVATION_GELU_TANH,
    ACTIVATION_SILU,
    NORM_CENTERED,
    NORM_RMS,
    NORM_SCALE,
    HeadNormStruct,
    LayerStruct,
    LinearStruct,
    ModelStruct,
    NormStruct,
)
from servery.engine.native.linear import NativeLinear
from servery.engine.norm import CenteredNorm, RMSNorm, Scaling, WideNorm
from servery.engine.projection import HeadProjection
from servery.engine.traits import GELU_TANH, SILU

_ACTIVATIONS = {SILU: ACTIVATION_SILU, GELU_TANH: ACTIVATION_GELU_TANH}


class Unplanned(Exception):
    """A model has something that the loop does not compute; the message says what."""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """`model` lacks an embedding, and the layers of it their caches; `kept` is what pointers name."""

    model: ModelStruct
    kept: list[Any]


def plan_layers(config: ModelConfig, layers: Sequence[Layer], norm: Norm) -> LayerPlan:
    """What the loop has to know of a model; raises `Unplanned`."""
    planner = _Planner(config)
    structs = (LayerStruct * len(layers))()
    for index, layer in enumerate(layers):
        planner.fill(structs[index], index, layer)
    ropes = list(dict.fromkeys(config.ropes))
    for struct, rope in zip(structs, config.ropes, strict=True):
        struct.angles = ropes.index(rope)
    model = ModelStruct(
        layers=len(layers),
        layer=structs,
        hidden_size=config.hidden_size,
        is_parallel=config.is_parallel,
        activation=_ACTIVATIONS[config.activation] if isinstance(config.activation, str) else 0,
        norm=planner.norm(norm),
    )
    return LayerPlan(model, [*planner.kept, structs, layers])


class _Planner:
    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self.kept: list[Tensor] = []

    def fill(self, struct: LayerStruct, index: int, layer: Layer) -> None:
        project, mlp = layer.project, layer.mlp
        if not isinstance(project, HeadProjection):
            raise Unplanned("its attention is latent")
        if not isinstance(mlp, GatedMLP):
            raise Unplanned(f"layer {index} is a mixture of experts")
        if mlp.activation not in _ACTIVATIONS:
            raise Unplanned(f"the gate of layer {index} is {mlp.activation}")
        struct.attention_norm, struct.attention_post = self.norm(layer.attention_norm), self.norm(layer.attention_post)
        struct.mlp_norm, struct.mlp_post = self.norm(layer.mlp_norm), self.norm(layer.mlp_post)
        parts = {"qkv": project.qkv, "output": layer.output, "gate_up": mlp.gate_up, "down": mlp.down}
        for name, linear in parts.items():
            setattr(struct, name, pointer(_packed(linear, f"{name} of layer {index}")))
        struct.head_norm = self._head_norm(project)

    def norm(self, norm: Post | None) -> NormStruct:
        if norm is None:
            return NormStruct()
        if isinstance(norm, RMSNorm):
            return NormStruct(self._address(norm.scaled), _squared(norm.floor), NORM_RMS)
        if isinstance(norm, CenteredNorm):
            return NormStruct(self._address(norm.weight.float()), norm.eps, NORM_CENTERED)
        assert isinstance(norm, Scaling)
        return NormStruct(None, norm.factor, NORM_SCALE)

    def _head_norm(self, project: HeadProjection) -> HeadNormStruct:
        norm = project.qk_norm
        if norm is None:
            return HeadNormStruct()
        if isinstance(norm, WideNorm):
            weight = self._address(torch.cat((norm.query.scaled, norm.key.scaled)))
            constants = _squared(norm.query.floor), _squared(norm.key.floor)
            return HeadNormStruct(weight, *constants, is_wide=True, is_late=project.norms_rotated)
        constants = _squared(norm.floor), _squared(norm.floor)
        return HeadNormStruct(self._address(norm.scaled), *constants, is_wide=False, is_late=project.norms_rotated)

    def _address(self, values: Tensor) -> int:
        values = values.contiguous()
        self.kept.append(values)
        return values.data_ptr()


def _squared(floor: Tensor) -> float:
    return float(floor) ** 2


def _packed(linear: object, name: str) -> LinearStruct:
    if not isinstance(linear, NativeLinear):
        raise Unplanned(f"there is no kernel for the weights of {name}")
    return linear.struct
