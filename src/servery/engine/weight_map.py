"""Which stored tensors make up which tensors of the decoder, for every architecture. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from servery.engine.architecture import ExpertConfig, ModelConfig
from servery.engine.supported import ARCHITECTURES, Architecture, ExpertNames


@dataclass(frozen=True, slots=True)
class Source:
    """A stored tensor: `part` is "weight" or "bias" of `module`. A weight may be stored otherwise, see `WeightFormat`."""

    module: str
    part: str
    shape: tuple[int, ...]

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
        if config.experts is None or architecture.experts is None:
            targets += _mlp(config, architecture, layer)
        else:
            targets += _mixture(config.hidden_size, config.experts, architecture.experts, layer)
    return targets


@dataclass(frozen=True, slots=True)
class _LayerNames:
    """What keys and stored names of one layer begin with."""

    key: str
    stored: str

    def norm(self, key: str, name: str, size: int) -> Target:
        return _single(f"{self.key}{key}", f"{self.stored}{name}", (size,))

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
        yield layer.norm("q_norm", "self_attn.q_norm", heads[0] * config.head_dim)
        yield layer.norm("k_norm", "self_attn.k_norm", heads[1] * config.head_dim)


def _attention(config: ModelConfig, architecture: Architecture, layer: _LayerNames) -> Iterator[Target]:
    query, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    qkv = {"self_attn.q_proj": query, "self_attn.k_proj": kv, "self_attn.v_proj": kv}
    if architecture.fused_qkv:
        qkv = {"self_attn.qkv_proj": query + 2 * kv}
    yield from layer.linear("qkv", qkv, config.hidden_size, config.qkv_bias)
    yield from layer.linear("output", {"self_attn.o_proj": config.hidden_size}, query, config.output_bias)


def _mlp(config: ModelConfig, architecture: Architecture, layer: _LayerNames) -> Iterator[Target]:
    inner = config.intermediate_size
    gate_up = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    if architecture.fused_mlp:
        gate_up = {"mlp.gate_up_proj": 2 * inner}
    yield from layer.linear("gate_up", gate_up, config.hidden_size, config.mlp_bias)
    yield from layer.linear("down", {"mlp.down_proj": config.hidden_size}, inner, config.mlp_bias)


def _mixture(hidden: int, experts: ExpertConfig, names: ExpertNames, layer: _LayerNames) -> Iterator[Target]:
    yield from layer.linear("router", {f"{names.block}.gate": experts.count}, hidden)
    inner = experts.intermediate_size
    for number in range(experts.count):
        stored = f"{names.block}.experts.{number}."
        gate_up = {f"{stored}{names.gate}": inner, f"{stored}{names.up}": inner}
        yield from layer.linear(f"experts.{number}.gate_up", gate_up, hidden)
        yield from layer.linear(f"experts.{number}.down", {f"{stored}{names.down}": hidden}, inner)
