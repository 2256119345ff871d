"""From a checkpoint in Hugging Face layout to a `Decoder`, streamed tensor by tensor: nothing missing, nothing left over."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ExpertConfig, ModelConfig
from servery.engine.checkpoint import Checkpoint, StoredTensor
from servery.engine.decoder import Decoder, Layer, Transform
from servery.engine.errors import LoadError
from servery.engine.linear import Linear
from servery.engine.mlp import GatedMLP, MixtureOfExperts
from servery.engine.norm import RMSNorm, WideNorm
from servery.engine.projection import HeadProjection
from servery.engine.rope import head_order
from servery.engine.weight_map import Target, targets_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a stored tensor goes: rows [first, first + shape[0]) of a target."""

    target: Target
    first: int
    shape: tuple[int, ...]


def load_model(
    path: Path | str, config: ModelConfig, dtype: torch.dtype, *, progress: Progress | None = None
) -> Decoder:
    """Load the weights in directory `path` as `dtype`.

    Files are memory-mapped and copied one tensor at a time to their final place, so the peak is the model and one
    tensor, and the files may change afterwards. `progress` is told (bytes of the model done, bytes in total) after
    each tensor. Raises `LoadError` naming file and tensor when the checkpoint is damaged or does not fit `config`.
    """
    checkpoint = Checkpoint.find(Path(path))
    places = _places(targets_of(config))
    weights: dict[str, Tensor] = {}
    seen: set[str] = set()
    done, total = 0, config.weight_bytes(dtype.itemsize)
    for stored in checkpoint.tensors():
        if _is_redundant(stored.name, config):
            continue
        place = _place(stored, places, seen)
        seen.add(stored.name)
        done += dtype.itemsize * _put(stored, place, weights, dtype)
        if progress is not None:
            progress(done, total)
    _refuse_missing(checkpoint, [name for name in places if name not in seen])
    return _assemble(config, weights)


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Rotary frequencies, which old exporters stored, and a tied head that was stored all the same."""
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")


def _place(stored: StoredTensor, places: Mapping[str, _Place], seen: set[str]) -> _Place:
    place = places.get(stored.name)
    if place is None:
        raise LoadError(
            f"{stored.path}: tensor {stored.name} has no place in the model that config.json describes. "
            "The weights and config.json belong to different models."
        )
    if stored.name in seen:
        raise LoadError(f"{stored.path}: tensor {stored.name} is in another file of the checkpoint as well.")
    if stored.shape != place.shape:
        raise LoadError(
            f"{stored.path}: tensor {stored.name} has shape {list(stored.shape)}; "
            f"by config.json it must be {list(place.shape)}."
        )
    return place


def _put(stored: StoredTensor, place: _Place, weights: dict[str, Tensor], dtype: torch.dtype) -> int:
    """Copy the data to its place; returns how many values it was."""
    target = weights.get(place.target.key)
    if target is None:
        target = weights[place.target.key] = torch.empty(place.target.shape, dtype=dtype)
    target[place.first : place.first + place.shape[0]].copy_(stored.load())
    return math.prod(place.shape)


def _refuse_missing(checkpoint: Checkpoint, missing: list[str]) -> None:
    if not missing:
        return
    files = ", ".join(path.name for path in checkpoint.listed)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise LoadError(f"{checkpoint.directory}: {files} lacks tensor {', '.join(missing[:3])}{more}. Download it again.")


def _places(targets: list[Target]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for target in targets:
        first = 0
        for name, shape in target.sources:
            places[name] = _Place(target, first, shape)
            first += shape[0]
    return places


def _assemble(config: ModelConfig, weights: dict[str, Tensor]) -> Decoder:
    embedding = weights["embedding"]
    return Decoder(
        config,
        embedding=embedding,
        layers=[_layer(config, weights, index) for index in range(config.num_layers)],
        norm=RMSNorm(weights["norm"], config.norm_eps, config.norm_offset),
        head=Linear(embedding if config.tie_embeddings else weights["head"]),
    )


def _layer(config: ModelConfig, weights: dict[str, Tensor], index: int) -> Layer:
    def linear(key: str) -> Linear:
        return Linear(weights[f"{index}.{key}"], weights.get(f"{index}.{key}.bias"))

    def norm(key: str) -> RMSNorm | None:
        weight = weights.get(f"{index}.{key}")
        return None if weight is None else RMSNorm(weight, config.norm_eps, config.norm_offset)

    scale = None if config.residual_scale == 1.0 else partial(torch.mul, other=config.residual_scale)
    _order_heads(config, weights, index)

    return Layer(
        attention_norm=norm("attention_norm"),
        project=HeadProjection(
            linear("qkv"),
            _qk_norm(config, weights, index) if config.qk_norm else None,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
        ),
        output=linear("output"),
        attention_post=norm("attention_post_norm") or scale,
        mlp_norm=norm("mlp_norm"),
        mlp=_mixture(config, config.experts, linear) if config.experts else _gated_mlp(config, linear),
        mlp_post=norm("mlp_post_norm") or scale,
    )


def _gated_mlp(config: ModelConfig, linear: Callable[[str], Linear], prefix: str = "") -> GatedMLP:
    return GatedMLP(linear(f"{prefix}gate_up"), linear(f"{prefix}down"), config.activation)


def _mixture(config: ModelConfig, experts: ExpertConfig, linear: Callable[[str], Linear]) -> MixtureOfExperts:
    mlps = [_gated_mlp(config, linear, f"experts.{number}.") for number in range(experts.count)]
    return MixtureOfExperts(linear("router"), mlps, experts.per_token, experts.normalizes)


def _order_heads(config: ModelConfig, weights: dict[str, Tensor], index: int) -> None:
    """Put the dimensions of query and key heads where `rotate` pairs them."""
    order = head_order(config.ropes[index], config.head_dim)
    if order is None:
        return
    rows = (config.num_heads + config.num_kv_heads) * config.head_dim
    for key in (f"{index}.qkv", f"{index}.qkv.bias"):
        if key in weights:
            stored = weights[key][:rows]
            heads = stored.view(-1, config.head_dim, *stored.shape[1:])
            heads.copy_(heads.index_select(1, order))


def _qk_norm(config: ModelConfig, weights: dict[str, Tensor], index: int) -> Transform:
    """A norm for queries and keys: where it goes over each head, one with a row of weights for each."""
    query, key = weights[f"{index}.q_norm"], weights[f"{index}.k_norm"]
    if config.wide_qk_norm:
        eps, offset = config.norm_eps, config.norm_offset
        return WideNorm(RMSNorm(query, eps, offset), RMSNorm(key, eps, offset), config.num_heads)
    every = torch.cat((query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1)))
    return RMSNorm(every, config.norm_eps, config.norm_offset)
