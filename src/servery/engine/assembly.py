"""A layer of the decoder, put together from its weights."""

from dataclasses import replace

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.decoder import Layer, Norm
from servery.engine.latent import LATENT_NORM_EPS, LatentOutput, LatentProjection
from servery.engine.latent_config import LatentConfig
from servery.engine.linear import Linear
from servery.engine.mixture_config import ExpertConfig
from servery.engine.mlp import GatedMLP, Mixture, MixtureOfExperts, SharedExpert
from servery.engine.norm import CenteredNorm, RMSNorm, Scaling, WideNorm
from servery.engine.parallel.summed import SummedMixture
from servery.engine.projection import HeadProjection, Projection
from servery.engine.quantization.matrix import Matrix, stack_rows
from servery.engine.rope import head_order
from servery.engine.router import Router
from servery.engine.weights import Weights


def assemble_layer(config: ModelConfig, index: int, weights: Weights) -> Layer:
    """Layer `index` of the decoder from its weights."""

    def norm(key: str) -> Norm | None:
        return norm_of(config, weights.tensors[key]) if key in weights.tensors else None

    scale = None if config.residual_scale == 1.0 else Scaling(config.residual_scale)
    experts = config.experts_of(index)
    project, output = _attention(config, index, weights)
    return Layer(
        attention_norm=norm("attention_norm"),
        project=project,
        output=output,
        attention_post=norm("attention_post_norm") or scale,
        mlp_norm=norm("mlp_norm"),
        mlp=_gated_mlp(config, weights) if experts is None else _summed(_mixture(config, experts, weights), weights),
        mlp_post=norm("mlp_post_norm") or scale,
        sinks=weights.tensors.get("sinks"),
    )


def norm_of(config: ModelConfig, weight: Tensor) -> Norm:
    """A norm of the model's kind."""
    if config.centers:
        return CenteredNorm(weight, config.norm_eps)
    return RMSNorm(weight, config.norm_eps, config.norm_offset)


def _attention(config: ModelConfig, index: int, weights: Weights) -> tuple[Projection, Linear | LatentOutput]:
    """What stands before attention and what stands after it."""
    order = head_order(config.ropes[index], config.rope_dim)
    if config.latent is not None:
        weights = weights if order is None else _with_rotating_in_order(config, config.latent, order, weights)
        return _latent_attention(config, config.latent, weights)
    weights = weights if order is None else _with_heads_in_order(config, order, weights)
    project = HeadProjection(
        weights.linear("qkv"),
        _qk_norm(config, weights) if config.qk_norm else None,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        norms_rotated=config.late_qk_norm,
    )
    return project, weights.summed("output")


def _latent_attention(
    config: ModelConfig, latent: LatentConfig, weights: Weights
) -> tuple[LatentProjection, LatentOutput]:
    kv_norm, query_norm = (weights.tensors.get(f"latent.{name}") for name in ("kv_norm", "query_norm"))
    assert kv_norm is not None
    # Applied head by head and not as one layer, so held dense.
    kv_up = weights.matrices["latent.kv_up"][0].dequantize(kv_norm.dtype)
    by_head = kv_up.view(config.num_heads, -1, latent.kv_rank)
    project = LatentProjection(
        latent,
        weights.linear("latent.down"),
        None if query_norm is None else RMSNorm(query_norm, LATENT_NORM_EPS),
        None if query_norm is None else weights.linear("latent.query_up"),
        RMSNorm(kv_norm, LATENT_NORM_EPS),
        by_head[:, : latent.key_dim],
    )
    return project, LatentOutput(by_head[:, latent.key_dim :].transpose(1, 2), weights.summed("output"))


def _gated_mlp(config: ModelConfig, weights: Weights, prefix: str = "") -> GatedMLP:
    """An MLP; of a mixture, whose sum is taken over all of it, without that over the team."""
    down = weights.linear(f"{prefix}down") if prefix else weights.summed("down")
    return GatedMLP(weights.linear(f"{prefix}gate_up"), down, config.activation)


def _mixture(config: ModelConfig, experts: ExpertConfig, weights: Weights) -> Mixture:
    (router_weight,) = weights.matrices["router"]
    correction, bias = (weights.tensors.get(key) for key in ("correction", "router.bias"))
    router = Router(experts, router_weight.dequantize(torch.float32), correction, bias)
    if weights.kernels is not None and (made := _compiled_mixture(config, experts, weights, router)) is not None:
        return made
    mlps = [_gated_mlp(config, weights, f"experts.{number}.") for number in range(experts.count)]
    return MixtureOfExperts(router, mlps, _shared(config, experts, weights))


def _summed(mixture: Mixture, weights: Weights) -> Mixture:
    return mixture if weights.team is None else SummedMixture(mixture, weights.team)


def _shared(config: ModelConfig, experts: ExpertConfig, weights: Weights) -> SharedExpert | None:
    if not experts.shared_size:
        return None
    gate = weights.linear("shared.gate") if experts.has_shared_gate else None
    return SharedExpert(_gated_mlp(config, weights, "shared."), gate)


def _compiled_mixture(config: ModelConfig, experts: ExpertConfig, weights: Weights, router: Router) -> Mixture | None:
    """By a device's kernels, over the experts' matrices as they are; None where these have none for the layouts."""
    halves: dict[str, list[tuple[Matrix, Tensor | None]]] = {"gate_up": [], "down": []}
    for number in range(experts.count):
        for name, parts in halves.items():
            key = f"experts.{number}.{name}"
            matrix = stack_rows(weights.matrices[key])
            if matrix is None:
                return None
            parts.append((matrix, weights.tensors.get(f"{key}.bias")))
    assert weights.kernels is not None
    shared = _shared(config, experts, weights)
    return weights.kernels.mixture(router, halves["gate_up"], halves["down"], config.activation, shared)


def _with_rotating_in_order(config: ModelConfig, latent: LatentConfig, order: Tensor, weights: Weights) -> Weights:
    """What rotates of each head's query, and of what is cached, in the order in which `rotate` pairs it."""
    matrices = dict(weights.matrices)
    of_head = torch.cat((torch.arange(latent.key_dim), latent.key_dim + order))
    of_query = (torch.arange(config.num_heads).unsqueeze(1) * latent.query_dim + of_head).flatten()
    query, stored = matrices["latent.down"]
    stored = stored.select_rows(torch.cat((torch.arange(latent.kv_rank), latent.kv_rank + order)))
    if latent.query_rank is None:
        query = query.select_rows(of_query)
    else:
        (query_up,) = matrices["latent.query_up"]
        matrices["latent.query_up"] = (query_up.select_rows(of_query),)
    matrices["latent.down"] = (query, stored)
    return replace(weights, matrices=matrices)


def _with_heads_in_order(config: ModelConfig, order: Tensor, weights: Weights) -> Weights:
    """The dimensions of query and key heads, and of their norms, where `rotate` pairs them."""
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
    for key in ("q_norm", "k_norm"):
        if key in tensors:
            tensors[key] = tensors[key].view(-1, config.head_dim)[:, order].flatten()
    return replace(weights, matrices=matrices, tensors=tensors)


def _qk_norm(config: ModelConfig, weights: Weights) -> RMSNorm | WideNorm:
    """A norm for queries and keys: where it goes over each head, one with a row of weights for each."""
    query, key = weights.tensors["q_norm"], weights.tensors["k_norm"]
    if config.wide_qk_norm:
        eps, offset = config.norm_eps, config.norm_offset
        return WideNorm(RMSNorm(query, eps, offset), RMSNorm(key, eps, offset), config.num_heads)
    every = torch.cat((query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1)))
    return RMSNorm(every, config.norm_eps, config.norm_offset)
