"""From a checkpoint in Hugging Face layout to a `Decoder`, streamed tensor by tensor: nothing missing, nothing left over."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.checkpoint import Checkpoint, StoredTensor
from servery.engine.decoder import Decoder, Layer, RMSNorm, Transform, WideNorm
from servery.engine.errors import LoadError
from servery.engine.linear import Linear
from servery.engine.mlp import GatedMLP
from servery.engine.rope import head_order
from servery.engine.supported import ARCHITECTURES

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """A tensor of the decoder, and the stored tensors whose rows it is made of, in order."""

    key: str
    sources: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(shape[0] for _, shape in self.sources), *self.sources[0][1][1:])


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a stored tensor goes: rows [first, first + shape[0]) of a target."""

    target: _Target
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
    places = _places(_targets(config))
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


def _places(targets: list[_Target]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for target in targets:
        first = 0
        for name, shape in target.sources:
            places[name] = _Place(target, first, shape)
            first += shape[0]
    return places


def _targets(config: ModelConfig) -> list[_Target]:
    hidden, vocab = config.hidden_size, config.vocab_size
    targets = [
        _Target("embedding", (("model.embed_tokens.weight", (vocab, hidden)),)),
        _Target("norm", (("model.norm.weight", (hidden,)),)),
    ]
    if not config.tie_embeddings:
        targets.append(_Target("head", (("lm_head.weight", (vocab, hidden)),)))
    for index in range(config.num_layers):
        targets += _layer_targets(config, index)
    return targets


def _layer_targets(config: ModelConfig, index: int) -> list[_Target]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer = f"model.layers.{index}."

    def norm(key: str, name: str, size: int) -> _Target:
        return _Target(f"{index}.{key}", ((f"{layer}{name}.weight", (size,)),))

    def linear(key: str, block: str, parts: dict[str, int], in_features: int, has_bias: bool) -> list[_Target]:
        names = [(f"{layer}{block}.{part}", rows) for part, rows in parts.items()]
        weight = _Target(f"{index}.{key}", tuple((f"{name}.weight", (rows, in_features)) for name, rows in names))
        bias = _Target(f"{index}.{key}.bias", tuple((f"{name}.bias", (rows,)) for name, rows in names))
        return [weight, bias] if has_bias else [weight]

    names = dataclasses.asdict(ARCHITECTURES[config.architecture].norms)
    targets = [norm(f"{key}_norm", name, hidden) for key, name in names.items() if name is not None]
    if config.qk_norm:
        sizes = (query, kv) if config.wide_qk_norm else (config.head_dim, config.head_dim)
        targets += [
            norm(f"{name}_norm", f"self_attn.{name}_norm", size) for name, size in zip("qk", sizes, strict=True)
        ]
    architecture = ARCHITECTURES[config.architecture]
    qkv = {"qkv_proj": query + 2 * kv} if architecture.fused_qkv else {"q_proj": query, "k_proj": kv, "v_proj": kv}
    gate_up = {"gate_up_proj": 2 * inner} if architecture.fused_mlp else {"gate_proj": inner, "up_proj": inner}
    targets += linear("qkv", "self_attn", qkv, hidden, config.qkv_bias)
    targets += linear("output", "self_attn", {"o_proj": hidden}, query, config.output_bias)
    targets += linear("gate_up", "mlp", gate_up, hidden, config.mlp_bias)
    targets += linear("down", "mlp", {"down_proj": hidden}, inner, config.mlp_bias)
    return targets


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
        qkv=linear("qkv"),
        qk_norm=_qk_norm(config, weights, index) if config.qk_norm else None,
        output=linear("output"),
        attention_post=norm("attention_post_norm") or scale,
        mlp_norm=norm("mlp_norm"),
        mlp=GatedMLP(linear("gate_up"), linear("down"), config.activation),
        mlp_post=norm("mlp_post_norm") or scale,
    )


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
