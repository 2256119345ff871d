"""Which stored tensors make up which tensors of the decoder, for every architecture. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from servery.engine.architecture import ModelConfig
from servery.engine.latent_config import LatentConfig
from servery.engine.mixture_config import ExpertConfig
from servery.engine.supported import ARCHITECTURES
from servery.engine.traits import Architecture, ExpertTraits


@dataclass(frozen=True, slots=True)
class Source:
    """A stored tensor: `part` is "weight" or "bias" of `module`. A weight may be stored otherwise, see `WeightFormat`.

    With `is_exact` it stays in float32, whatever the type of the others.
    """

    module: str
    part: str
    shape: tuple[int, ...]
    is_exact: bool = False

    @property
    def name(self) -> str:
        """As it is stored where it is not quantized."""
        return f"{self.module}.{self.part}"


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the decoder, and the stored tensors whose rows it is made of, in order."""

    key: str
    sources: tuple[Source, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix, which may be stored in more ways than one; norms and biases are plain tensors."""
        return len(self.sources[0].shape) == 2


def targets_of(config: ModelConfig) -> list[Target]:
    """Every tensor of the model that `config` describes; those of layer 3 have a key that begins with `3.`."""
    architecture = ARCHITECTURES[config.architecture]
    hidden, vocab = config.hidden_size, config.vocab_size
    targets = [
        _single("embedding", "model.embed_tokens", (vocab, hidden)),
        _single("norm", "model.norm", (hidden,)),
    ]
    if not config.tie_embeddings:
        targets.append(_single("head", "lm_head", (vocab, hidden)))
    for index in range(config.num_layers):
        layer = _LayerNames(f"{index}.", f"model.layers.{index}.")
        targets += _norms(config, architecture, layer)
        targets += _attention(config, architecture, layer)
        experts = config.experts_of(index)
        if experts is None or architecture.experts is None:
            targets += _mlp(config, architecture, layer)
        else:
            targets += _mixture(config.hidden_size, experts, architecture.experts, layer)
    return targets


@dataclass(frozen=True, slots=True)
class _LayerNames:
    """What keys and stored names of one layer begin with."""

    key: str
    stored: str

    def norm(self, key: str, name: str, size: int) -> Target:
        return _single(f"{self.key}{key}", f"{self.stored}{name}", (size,))

    def exact(self, key: str, name: str, shape: tuple[int, ...]) -> Target:
        module, _, part = name.rpartition(".")
        return Target(f"{self.key}{key}", (Source(f"{self.stored}{module}", part, shape, is_exact=True),))

    def linear(self, key: str, parts: Mapping[str, int], in_features: int, has_bias: bool = False) -> Iterator[Target]:
        """A matrix, and perhaps its bias; `parts` are the stored names and their rows."""
        names = [(f"{self.stored}{part}", rows) for part, rows in parts.items()]
        yield Target(f"{self.key}{key}", tuple(Source(name, "weight", (rows, in_features)) for name, rows in names))
        if has_bias:
            yield Target(f"{self.key}{key}.bias", tuple(Source(name, "bias", (rows,)) for name, rows in names))


def _single(key: str, module: str, shape: tuple[int, ...]) -> Target:
    return Target(key, (Source(module, "weight", shape),))


def _norms(config: ModelConfig, architecture: Architecture, layer: _LayerNames) -> Iterator[Target]:
    names = architecture.norms
    for key, name in (
        ("attention_norm", names.attention),
        ("attention_post_norm", names.attention_post),
        ("mlp_norm", names.mlp),
        ("mlp_post_norm", names.mlp_post),
    ):
        if name is not None:
            yield layer.norm(key, name, config.hidden_size)
    if config.qk_norm:
        heads = (config.num_heads, config.num_kv_heads) if config.wide_qk_norm else (1, 1)
        query, key = ("query_layernorm", "key_layernorm") if config.late_qk_norm else ("q_norm", "k_norm")
        yield layer.norm("q_norm", f"self_attn.{query}", heads[0] * config.head_dim)
        yield layer.norm("k_norm", f"self_attn.{key}", heads[1] * config.head_dim)


def _attention(config: ModelConfig, architecture: Architecture, layer: _LayerNames) -> Iterator[Target]:
    if config.latent is not None:
        yield from _latent_attention(config, config.latent, layer)
        return
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    qkv = {"self_attn.q_proj": query, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    if architecture.fused_qkv:
        qkv = {"self_attn.qkv_proj": query + 2 * kv}
    yield from layer.linear("qkv", qkv, config.hidden_size, config.qkv_bias)
    yield from layer.linear("output", {"self_attn.o_proj": config.hidden_size}, query, config.output_bias)
    if config.has_sinks:
        yield Target(f"{layer.key}sinks", (Source(f"{layer.stored}self_attn", "sinks", (config.num_heads,)),))


def _latent_attention(config: ModelConfig, latent: LatentConfig, layer: _LayerNames) -> Iterator[Target]:
    heads, query = config.num_heads, config.num_heads * latent.query_dim
    if latent.query_rank is None:
        down = {"self_attn.q_proj": query}
    else:
        down = {"self_attn.q_a_proj": latent.query_rank}
        yield layer.norm("latent.query_norm", "self_attn.q_a_layernorm", latent.query_rank)
        yield from layer.linear("latent.query_up", {"self_attn.q_b_proj": query}, latent.query_rank)
    yield from layer.linear("latent.down", down | {"self_attn.kv_a_proj_with_mqa": latent.width}, config.hidden_size)
    yield layer.norm("latent.kv_norm", "self_attn.kv_a_layernorm", latent.kv_rank)
    kv_up = {"self_attn.kv_b_proj": heads * (latent.key_dim + latent.value_dim)}
    yield from layer.linear("latent.kv_up", kv_up, latent.kv_rank)
    yield from layer.linear("output", {"self_attn.o_proj": config.hidden_size}, heads * latent.value_dim)


def _mlp(config: ModelConfig, architecture: Architecture, layer: _LayerNames) -> Iterator[Target]:
    inner = config.intermediate_size
    gate_up = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    if architecture.fused_mlp:
        gate_up = {"mlp.gate_up_proj": 2 * inner}
    yield from layer.linear("gate_up", gate_up, config.hidden_size, config.mlp_bias)
    yield from layer.linear("down", {"mlp.down_proj": config.hidden_size}, inner, config.mlp_bias)


def _mixture(hidden: int, experts: ExpertConfig, traits: ExpertTraits, layer: _LayerNames) -> Iterator[Target]:
    yield layer.exact("router", f"{traits.router}.weight", (experts.count, hidden))
    if traits.correction is not None:
        yield layer.exact("correction", traits.correction, (experts.count,))
    inner, has_bias = experts.intermediate_size, experts.has_biases
    if has_bias:
        yield layer.exact("router.bias", f"{traits.router}.bias", (experts.count,))
    for number in range(experts.count):
        gate_up = {traits.gate.format(number): inner, traits.up.format(number): inner}
        if traits.fused is not None:
            gate_up = {traits.fused.format(number): 2 * inner}
        yield from layer.linear(f"experts.{number}.gate_up", gate_up, hidden, has_bias)
        yield from layer.linear(f"experts.{number}.down", {traits.down.format(number): hidden}, inner, has_bias)
    if traits.shared is not None and experts.shared_size:
        inner, stored = experts.shared_size, traits.shared
        yield from layer.linear("shared.gate_up", {f"{stored}.gate_proj": inner, f"{stored}.up_proj": inner}, hidden)
        yield from layer.linear("shared.down", {f"{stored}.down_proj": hidden}, inner)
        if traits.shared_gate is not None:
            yield from layer.linear("shared.gate", {traits.shared_gate: 1}, hidden)
