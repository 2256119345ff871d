"""What a checkpoint is: config.json and generation_config.json read into one immutable `ModelConfig`. No torch.

One decoder runs every supported model. What differs between architectures stands in the table `supported.py`; what
differs between checkpoints of one architecture stands in `ModelConfig`.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from servery.engine.gguf.config import read_config
from servery.engine.gguf.files import find_gguf, open_gguf
from servery.engine.json_fields import JsonFields
from servery.engine.latent_config import LatentConfig, read_latent
from servery.engine.mixture_config import ExpertConfig, read_experts
from servery.engine.model_folder import check_is_model_folder
from servery.engine.rope_config import RopeConfig, read_ropes
from servery.engine.supported import ARCHITECTURES, nearest
from servery.engine.traits import MAX_LAYERS, MAX_POSITIONS, SILU, Architecture, Clamp, Switch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything the engine must know about a checkpoint before it reads a weight.

    `windows` has one entry per layer: how many positions a query sees, itself included, or None for all;
    so has `ropes`.
    `max_position` counts positions; `eos_token_ids` joins both files. `dtype` is the checkpoint's own, if it says.
    `attention_scale` multiplies the scores, None for 1 / sqrt(head_dim). A soft cap c keeps a number x between -c and c
    as c tanh(x / c). `embedding_scale` multiplies what the embedding gives, `residual_scale` what either half of
    a layer adds to the residual stream. `layer_norms` counts a layer's norms;
    `wide_qk_norm` says that those of queries and keys go over all heads at once, `late_qk_norm` that they come after
    rotation, `centers` that all others subtract the mean first. With `is_parallel` the MLP's input is attention's. With `has_sinks` each head has a score for looking at
    nothing. With `latent` attention there is one
    key head, as wide as what is cached, and its values are its keys. `num_draft_layers` counts stored layers after the
    last that predict further tokens; they are not loaded.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    norm_eps: float
    ropes: tuple[RopeConfig, ...]
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_embeddings: bool
    eos_token_ids: frozenset[int]
    dtype: str | None
    activation: str | Clamp = SILU
    experts: ExpertConfig | None = None
    latent: LatentConfig | None = None
    layer_norms: int = 2
    wide_qk_norm: bool = False
    late_qk_norm: bool = False
    norm_offset: float = 0.0
    centers: bool = False
    is_parallel: bool = False
    has_sinks: bool = False
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    num_draft_layers: int = 0

    @classmethod
    def load(cls, path: Path | str) -> "ModelConfig":
        """Read the checkpoint directory or GGUF file `path`.

        Raises `LoadError` naming file and field when something is missing or malformed, when the architecture is not
        supported (with the list of those that are, and the nearest), and when the weights are quantized.
        """
        directory = Path(path)
        file = find_gguf(directory)
        if file is not None:
            return _of_gguf(file)
        check_is_model_folder(directory)
        fields = JsonFields.read(directory / "config.json")
        name, architecture = _architecture(fields)
        _refuse_unsupported(fields, architecture)
        return _model_config(fields, name, architecture, _generation_eos(directory))

    @property
    def rope_dim(self) -> int:
        """How many dimensions of a head a rotation is applied to; not all of them need to turn."""
        return self.head_dim if self.latent is None else self.latent.rope_dim

    @property
    def kv_planes(self) -> int:
        """2 where keys and values are cached, 1 where keys are values."""
        return 2 if self.latent is None else 1

    def experts_of(self, layer: int) -> ExpertConfig | None:
        """The mixture of experts of `layer`, None where it has an MLP."""
        return self.experts if self.experts is not None and self.experts.layers[layer] else None

    @property
    def num_parameters(self) -> int:
        """The number of weights, tied ones counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        same = self._attention_parameters + self.layer_norms * self.hidden_size
        layers = sum(same + self._mlp_parameters(layer) for layer in range(self.num_layers))
        return layers + self.hidden_size + embeddings

    @property
    def _attention_parameters(self) -> int:
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        if self.latent is not None:
            return self.latent.num_parameters(hidden, self.num_heads)
        query = self.num_heads * self.head_dim
        biases = self.qkv_bias * (query + 2 * kv) + self.output_bias * hidden
        norms = self.qk_norm * (query + kv if self.wide_qk_norm else 2 * self.head_dim)
        return hidden * (query + 2 * kv) + query * hidden + biases + norms + self.has_sinks * self.num_heads

    def _mlp_parameters(self, layer: int) -> int:
        experts = self.experts_of(layer)
        if experts is not None:
            return experts.num_parameters(self.hidden_size)
        biases = self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        return 3 * self.hidden_size * self.intermediate_size + biases

    def only_layer(self, index: int) -> "ModelConfig":
        """The model with layer `index` and no other, to run it alone."""
        experts = self.experts and dataclasses.replace(self.experts, layers=(self.experts.layers[index],))
        ropes, windows = (self.ropes[index],), (self.windows[index],)
        return dataclasses.replace(self, num_layers=1, ropes=ropes, windows=windows, experts=experts)

    def weight_bytes(self, bytes_per_value: int) -> int:
        """Memory of the weights when each value takes `bytes_per_value` (4 for float32, 2 for bfloat16)."""
        return self.num_parameters * bytes_per_value

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Memory of one position's keys and values over all layers."""
        return self.kv_planes * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


def _of_gguf(file: Path) -> ModelConfig:
    found = read_config(open_gguf(file))
    name = found.family.architecture
    return _model_config(found.fields, name, ARCHITECTURES[name], frozenset())


def _architecture(fields: JsonFields) -> tuple[str, Architecture]:
    rule = f"supported are {', '.join(ARCHITECTURES)}"
    names = fields.raw("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", f"it must be a list with one name; {rule}")
    if names[0] not in ARCHITECTURES:
        similar = nearest(names[0])
        raise fields.error("architectures", f"the nearest by name is {similar}; {rule}" if similar else rule)
    return names[0], ARCHITECTURES[names[0]]


def _refuse_unsupported(fields: JsonFields, architecture: Architecture) -> None:
    for name in ("hidden_act", "hidden_activation"):
        if fields.raw(name) not in (None, architecture.activation, architecture.old_activation):
            raise fields.error(name, f"only {architecture.activation} is supported")
    for name in architecture.refused:
        if fields.raw(name):
            raise fields.error(name, "for this architecture it must be missing, null or false")
    if fields.flag("use_bidirectional_attention"):
        raise fields.error("use_bidirectional_attention", "only causal attention is supported")


def _model_config(
    fields: JsonFields, name: str, architecture: Architecture, generation_eos: frozenset[int]
) -> ModelConfig:
    num_layers = fields.count("num_hidden_layers", most=MAX_LAYERS)
    max_position = fields.count("max_position_embeddings", most=MAX_POSITIONS)
    latent = read_latent(fields) if architecture.is_latent else None
    num_heads, num_kv_heads, head_dim = _heads(fields, architecture, latent)
    windows = _windows(fields, architecture, num_layers)
    rope_dim = head_dim if latent is None else latent.rope_dim
    ropes = read_ropes(fields, architecture, windows, max_position, rope_dim)
    return ModelConfig(
        architecture=name,
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        # Beyond it a sequence would need the keys that it has in the cache to be rotated anew.
        max_position=min([max_position, *(rope.original_max_position for rope in ropes if rope.kind == "longrope")]),
        norm_eps=fields.number("layer_norm_eps" if architecture.centers else "rms_norm_eps"),
        ropes=ropes,
        windows=windows,
        qkv_bias=_is_on(fields, architecture.qkv_bias),
        output_bias=_is_on(fields, architecture.output_bias),
        mlp_bias=_is_on(fields, architecture.mlp_bias),
        qk_norm=_is_on(fields, architecture.qk_norm),
        tie_embeddings=fields.flag("tie_word_embeddings", architecture.tied),
        eos_token_ids=fields.token_ids("eos_token_id") | generation_eos,
        dtype=_dtype(fields),
        activation=_activation(fields, architecture),
        experts=None if architecture.experts is None else read_experts(fields, architecture.experts, num_layers),
        latent=latent,
        wide_qk_norm=architecture.wide_qk_norm,
        late_qk_norm=architecture.late_qk_norm,
        layer_norms=architecture.norms.count,
        norm_offset=architecture.norm_offset,
        centers=architecture.centers,
        is_parallel=architecture.is_parallel,
        has_sinks=architecture.has_sinks,
        attention_scale=_attention_scale(fields, architecture, latent, ropes[0]),
        attention_soft_cap=_soft_cap(fields, architecture, "attn_logit_softcapping", 0),
        logit_soft_cap=_soft_cap(fields, architecture, "final_logit_softcapping", 1),
        embedding_scale=_embedding_scale(fields, architecture),
        residual_scale=fields.number("residual_multiplier", 1.0) if architecture.has_multipliers else 1.0,
        logit_divisor=_logit_divisor(fields, architecture),
        num_draft_layers=fields.whole("num_nextn_predict_layers", 0, most=MAX_LAYERS),
    )


def _activation(fields: JsonFields, architecture: Architecture) -> str | Clamp:
    if architecture.clamps:
        return Clamp(fields.number("swiglu_alpha", 1.702), fields.number("swiglu_limit", 7.0))
    return architecture.activation


def _is_on(fields: JsonFields, switch: bool | Switch) -> bool:
    return fields.flag(switch.field, switch.default) if isinstance(switch, Switch) else switch


def _attention_scale(
    fields: JsonFields, architecture: Architecture, latent: LatentConfig | None, rope: RopeConfig
) -> float | None:
    if latent is not None:
        return rope.score_factor / math.sqrt(latent.query_dim)
    if architecture.has_multipliers:
        return fields.number("attention_multiplier", 1.0)
    scalar = architecture.query_scalar
    return None if scalar is None else 1.0 / math.sqrt(fields.number("query_pre_attn_scalar", scalar))


def _embedding_scale(fields: JsonFields, architecture: Architecture) -> float:
    if architecture.has_multipliers:
        return fields.number("embedding_multiplier", 1.0)
    return math.sqrt(fields.count("hidden_size")) if architecture.scales_embedding else 1.0


def _logit_divisor(fields: JsonFields, architecture: Architecture) -> float:
    if architecture.logit_scale is not None:
        return 1.0 / fields.number("logit_scale", architecture.logit_scale)
    return fields.number("logits_scaling", 1.0) if architecture.has_multipliers else 1.0


def _soft_cap(fields: JsonFields, architecture: Architecture, name: str, which: int) -> float | None:
    """Null switches a cap off; a missing field means the architecture's own."""
    if architecture.soft_caps is None:
        return None
    if not fields.is_given(name):
        return architecture.soft_caps[which]
    return fields.number(name) if fields.has(name) else None


def _heads(fields: JsonFields, architecture: Architecture, latent: LatentConfig | None) -> tuple[int, int, int]:
    num_heads = fields.count("num_attention_heads")
    if latent is not None:
        return num_heads, 1, latent.width
    num_kv_heads = fields.count("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise fields.error("num_key_value_heads", f"it must divide num_attention_heads, which is {num_heads}")
    hidden_size = fields.count("hidden_size")
    if architecture.head_dim is None and not fields.has("head_dim") and hidden_size % num_heads:
        raise fields.error("hidden_size", f"without head_dim it must be a multiple of num_attention_heads {num_heads}")
    head_dim = fields.count("head_dim", architecture.head_dim or hidden_size // num_heads)
    if head_dim % 2:
        raise fields.error("head_dim", f"rotary embeddings need an even head_dim, not {head_dim}")
    return num_heads, num_kv_heads, head_dim


def _windows(fields: JsonFields, architecture: Architecture, num_layers: int) -> tuple[int | None, ...]:
    if architecture.window == "all_if_used" and not fields.flag("use_sliding_window"):
        return (None,) * num_layers
    if architecture.window in {"all", "all_if_used"}:
        # null switches the window off; a missing field means the architecture's own.
        is_given = fields.is_given("sliding_window")
        window = fields.optional_count("sliding_window") if is_given else architecture.default_window
        return (window,) * num_layers
    if architecture.window == "pattern":
        is_given = fields.is_given("sliding_window")
        window = fields.optional_count("sliding_window") if is_given else architecture.default_window
        slides = _listed_layers(fields, num_layers) or _pattern(fields, architecture, num_layers)
        return tuple(window if each else None for each in slides)
    if architecture.window == "none" or not fields.flag("use_sliding_window"):
        return (None,) * num_layers
    window = fields.optional_count("sliding_window")
    return tuple(window if slides else None for slides in _sliding_layers(fields, num_layers))


def _pattern(fields: JsonFields, architecture: Architecture, num_layers: int) -> list[bool]:
    if not (fields.has("sliding_window_pattern") or architecture.full_every):
        return [True] * num_layers
    full_every = fields.count("sliding_window_pattern", architecture.full_every)
    return [(layer + 1) % full_every != 0 for layer in range(num_layers)]


def _sliding_layers(fields: JsonFields, num_layers: int) -> list[bool]:
    listed = _listed_layers(fields, num_layers)
    if listed is not None:
        return listed
    first = fields.raw("max_window_layers")
    if not isinstance(first, int) or isinstance(first, bool) or first < 0:
        raise fields.error("max_window_layers", "with use_sliding_window it must be a whole number")
    return [layer >= first for layer in range(num_layers)]


def _listed_layers(fields: JsonFields, num_layers: int) -> list[bool] | None:
    """Which layers `layer_types` lets slide, None when the field is missing."""
    if not fields.has("layer_types"):
        return None
    types = fields.raw("layer_types")
    known = ["full_attention", "sliding_attention"]
    if not isinstance(types, list) or len(types) != num_layers or not all(kind in known for kind in types):
        raise fields.error("layer_types", f"it must list one of {', '.join(known)} for each layer")
    return [kind == "sliding_attention" for kind in types]


def _generation_eos(directory: Path) -> frozenset[int]:
    path = directory / "generation_config.json"
    return JsonFields.read(path).token_ids("eos_token_id") if path.exists() else frozenset()


def _dtype(fields: JsonFields) -> str | None:
    """The name that transformers 5 writes as `dtype` and older ones as `torch_dtype`."""
    value = fields.raw("dtype") or fields.raw("torch_dtype")
    return value if isinstance(value, str) else None
