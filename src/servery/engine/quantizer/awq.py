"""Activation-aware scaling (AWQ, arXiv 2306.00978): input channels that matter are rounded on a finer grid.

Multiplying channel k of a weight by s_k and its input by 1 / s_k changes nothing, but the error of rounding that
channel shrinks by s_k. The 1 / s_k is folded into what makes the input, so that inference does nothing extra: a norm,
the value rows of attention, or the up rows of an MLP. s_k is the mean of |x_k| to a power that is searched.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.quantization.rounding import rounded
from servery.engine.quantization.scheme import Rounding
from servery.engine.quantizer.calibration import Observed
from servery.engine.traits import GELU_TANH, SILU

_POWERS = tuple(step / 20 for step in range(21))
_LEAST_SIZE = 1e-4
# The layers of which it is known what makes their input: a norm, or something that is no norm of the layer.
_CONSUMERS = {
    "qkv": "attention_norm",
    "latent.down": "attention_norm",
    "latent.query_up": "",
    "latent.kv_up": "",
    "output": "",
    "router": "mlp_norm",
    "shared.gate": "mlp_norm",
    "gate_up": "mlp_norm",
    "down": "",
}


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """A layer's weights while they are scaled, float32 and changed in place: matrices [N, K], and norms and biases."""

    matrices: dict[str, Tensor]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Fold:
    """Layers that share an input, the keys in `consumers`, and what makes it: `scale` divides that by s.

    `scale` returns the s that it really divided by. Where one s is for several channels of the input, `spread` gives one
    to each, and `gather` makes one size of several.
    """

    consumers: tuple[str, ...]
    scale: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor] = lambda scales: scales
    gather: Callable[[Tensor], Tensor] = lambda sizes: sizes


def scale_layer(
    config: ModelConfig,
    layer: LayerTensors,
    seen: Mapping[str, Observed],
    roundings: Mapping[str, Rounding],
    stored_dtype: torch.dtype,
) -> None:
    """Scale the input channels of all layers that are rounded.

    `seen` is what the layers were given before; norms are left as values of `stored_dtype`. Where it is not known who
    shares an input, or what makes it is no plain product, nothing is scaled.
    """
    for fold in _folds(config, layer, stored_dtype):
        if not any(key in seen for key in fold.consumers):
            continue  # an expert that no token of the sample went to
        found = fold.spread(fold.scale(_searched(layer, fold, seen, roundings)))
        for key in fold.consumers:
            layer.matrices[key].mul_(found)


def _searched(
    layer: LayerTensors, fold: _Fold, seen: Mapping[str, Observed], roundings: Mapping[str, Rounding]
) -> Tensor:
    """The scales of which rounding changes the layers' outputs least; all 1 is among those that are tried."""
    sizes = fold.gather(torch.stack([seen[key].mean_size for key in fold.consumers if key in seen]).amax(0))
    tried = [key for key in fold.consumers if key in seen and key in roundings]
    best, least = torch.ones_like(sizes), float("inf")
    for power in _POWERS:
        scales = sizes.clamp(min=_LEAST_SIZE) ** power
        scales /= (scales.max() * scales.min()).sqrt()
        spread = fold.spread(scales)
        loss = sum(_loss(layer.matrices[key], spread, seen[key].rows, roundings[key]) for key in tried)
        if loss < least:
            best, least = scales, loss
    return best


def _loss(weight: Tensor, scales: Tensor, x: Tensor, rounding: Rounding) -> float:
    """The squared error of the outputs for inputs `x` [R, K] when `weight` [N, K] is rounded with `scales` [K]."""
    error = rounded(weight * scales, rounding).dequantize(torch.float32).div_(scales).sub_(weight)
    return float(torch.mm(x, error.t()).square_().sum())


def _folds(config: ModelConfig, layer: LayerTensors, stored_dtype: torch.dtype) -> Iterator[_Fold]:
    if not all(_name(key) in _CONSUMERS for key in layer.matrices):
        return
    for norm in ("attention_norm", "mlp_norm"):
        if norm in layer.tensors:
            consumers = tuple(key for key in layer.matrices if norm == _input_of(config, key))
            yield _Fold(consumers, partial(_scale_norm, layer.tensors[norm], config.norm_offset, stored_dtype))
    if "qkv" in layer.matrices:
        yield _value_fold(config, layer)
    if config.activation in {SILU, GELU_TANH}:
        for key in [key for key in layer.matrices if _name(key) == "down"]:
            yield _up_fold(layer, key)


def _input_of(config: ModelConfig, key: str) -> str:
    norm = _CONSUMERS[_name(key)]
    return "attention_norm" if norm == "mlp_norm" and config.is_parallel else norm


def _name(key: str) -> str:
    """What a layer is, whichever expert it belongs to."""
    return re.sub(r"^(experts\.\d+|shared)\.(?=gate_up|down)", "", key)


def _value_fold(config: ModelConfig, layer: LayerTensors) -> _Fold:
    """A value head makes the input channels of the output layer for all query heads that read it."""
    kv_heads, head_dim, group = config.num_kv_heads, config.head_dim, config.num_heads // config.num_kv_heads
    first = (config.num_heads + kv_heads) * head_dim

    def spread(scales: Tensor) -> Tensor:
        return scales.view(kv_heads, 1, head_dim).expand(-1, group, -1).flatten()

    def gather(sizes: Tensor) -> Tensor:
        return sizes.view(kv_heads, group, head_dim).mean(1).flatten()

    return _Fold(("output",), partial(_scale_rows, layer, "qkv", first), spread, gather)


def _up_fold(layer: LayerTensors, down: str) -> _Fold:
    gate_up = f"{down.removesuffix('down')}gate_up"
    return _Fold((down,), partial(_scale_rows, layer, gate_up, len(layer.matrices[gate_up]) // 2))


def _scale_norm(weight: Tensor, offset: float, stored_dtype: torch.dtype, scales: Tensor) -> Tensor:
    """The rounding of the scaled norm goes into the scales, so that nothing is lost by it."""
    scaled = ((weight + offset) / scales - offset).to(stored_dtype).float()
    real = (weight + offset) / (scaled + offset)
    weight.copy_(scaled)
    return real.where(real.isfinite() & (real > 0), scales)


def _scale_rows(layer: LayerTensors, key: str, first: int, scales: Tensor) -> Tensor:
    layer.matrices[key][first:].div_(scales.unsqueeze(1))
    bias = layer.tensors.get(f"{key}.bias")
    if bias is not None:
        bias[first:].div_(scales)
    return scales
