"""From a checkpoint to a `Decoder`, streamed layer by layer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from servery.engine.architecture import ExpertConfig, ModelConfig
from servery.engine.decoder import Decoder, Layer
from servery.engine.linear import Linear, linear_of
from servery.engine.mlp import GatedMLP, MixtureOfExperts
from servery.engine.norm import RMSNorm, WideNorm
from servery.engine.projection import HeadProjection
from servery.engine.rope import head_order
from servery.engine.weights import Progress, WeightReader, Weights, open_weights


def load_model(
    path: Path | str, config: ModelConfig, dtype: torch.dtype, *, progress: Progress | None = None
) -> Decoder:
    """The model in directory `path`; see `open_weights` and `build_decoder`."""
    with open_weights(Path(path), config, dtype, progress=progress) as reader:
        return build_decoder(config, reader)


def build_decoder(config: ModelConfig, reader: WeightReader) -> Decoder:
    """Read the weights and put them together.

    Files are memory-mapped and copied one tensor at a time, so the peak is the model and the parts of one matrix, and
    the files may change afterwards. Raises `LoadError` naming file and tensor when the checkpoint is damaged or does
    not fit `config`.
    """
    ends = reader.read(None)
    embedding = ends.matrices["embedding"]
    return Decoder(
        config,
        reader.dtype,
        embedding=embedding[0],
        layers=[assemble_layer(config, index, reader.read(index)) for index in range(config.num_layers)],
        norm=RMSNorm(ends.tensors["norm"], config.norm_eps, config.norm_offset),
        head=linear_of(embedding if config.tie_embeddings else ends.matrices["head"]),
    )


def assemble_layer(config: ModelConfig, index: int, weights: Weights) -> Layer:
    """Layer `index` of the decoder from its weights."""

    def linear(key: str) -> Linear:
        return linear_of(weights.matrices[key], weights.tensors.get(f"{key}.bias"))

    def norm(key: str) -> RMSNorm | None:
        weight = weights.tensors.get(key)
        return None if weight is None else RMSNorm(weight, config.norm_eps, config.norm_offset)

    scale = None if config.residual_scale == 1.0 else partial(torch.mul, other=config.residual_scale)
    weights = _with_heads_in_order(config, index, weights)
    return Layer(
        attention_norm=norm("attention_norm"),
        project=HeadProjection(
            linear("qkv"),
            _qk_norm(config, weights) if config.qk_norm else None,
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


def _with_heads_in_order(config: ModelConfig, index: int, weights: Weights) -> Weights:
    """The dimensions of query and key heads where `rotate` pairs them."""
    order = head_order(config.ropes[index], config.head_dim)
    if order is None:
        return weights
    num_heads = config.num_heads + 2 * config.num_kv_heads
    rows = torch.arange(num_heads * config.head_dim).view(num_heads, config.head_dim)
    rotating = rows[: config.num_heads + config.num_kv_heads]
    rotating.copy_(rotating[:, order])
    matrices, tensors = dict(weights.matrices), dict(weights.tensors)
    # Heads are not spread over parts, so that each part keeps its rows.
    parts = matrices["qkv"]
    orders = torch.split(rows.flatten(), [part.shape[0] for part in parts])
    matrices["qkv"] = tuple(part.select_rows(o - o.min()) for part, o in zip(parts, orders, strict=True))
    if "qkv.bias" in tensors:
        tensors["qkv.bias"] = tensors["qkv.bias"][rows.flatten()]
    return Weights(matrices, tensors)


def _qk_norm(config: ModelConfig, weights: Weights) -> RMSNorm | WideNorm:
    """A norm for queries and keys: where it goes over each head, one with a row of weights for each."""
    query, key = weights.tensors["q_norm"], weights.tensors["k_norm"]
    if config.wide_qk_norm:
        eps, offset = config.norm_eps, config.norm_offset
        return WideNorm(RMSNorm(query, eps, offset), RMSNorm(key, eps, offset), config.num_heads)
    every = torch.cat((query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1)))
    return RMSNorm(every, config.norm_eps, config.norm_offset)
