"""What a checkpoint is: config.json and generation_config.json read into one immutable `ModelConfig`. No torch.

One decoder runs every supported model. What differs between architectures stands in the table `ARCHITECTURES`;
what differs between checkpoints of one architecture stands in `ModelConfig`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servery.engine.errors import LoadError
from servery.engine.json_fields import JsonFields

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture differs from the others, with its meaning of fields that a config.json leaves out.

    `attention_bias` is "config" where the checkpoint decides (for the output projection as well), "qkv" where query,
    key and value always have a bias. `window` says which layers slide: "none", "all" or "upper" (by `layer_types`,
    or from `max_window_layers` on). `head_dim` None means hidden_size / num_attention_heads.
    """

    attention_bias: str = "none"
    mlp_bias: bool = False
    qk_norm: bool = False
    window: str = "none"
    default_window: int | None = None
    head_dim: int | None = None


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(attention_bias="config", mlp_bias=True),
    "MistralForCausalLM": Architecture(window="all", default_window=4096),
    "Qwen2ForCausalLM": Architecture(attention_bias="qkv", window="upper"),
    "Qwen3ForCausalLM": Architecture(attention_bias="config", qk_norm=True, window="upper", head_dim=128),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: base, kind of scaling and that kind's parameters.

    "dynamic" equals "default" up to `max_position`, beyond which nothing is served, so it has no parameters here.
    Sources: linear, kaiokendev 2023; yarn, arXiv 2309.00071; llama3, the Llama 3.1 release.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything the engine must know about a checkpoint before it reads a weight.

    `windows` has one entry per layer: how many positions a query sees, itself included, or None for all.
    `max_position` counts positions; `eos_token_ids` joins both files. `dtype` is the checkpoint's own, if it says.
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
    rope: RopeConfig
    windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_embeddings: bool
    eos_token_ids: frozenset[int]
    dtype: str | None

    @classmethod
    def load(cls, path: Path | str) -> "ModelConfig":
        """Read the checkpoint directory `path`.

        Raises `LoadError` naming file and field when something is missing or malformed, when the architecture is not
        supported (with the list of those that are), and when the weights are quantized.
        """
        directory = Path(path)
        if not directory.is_dir():
            raise LoadError(f"{directory} is not a directory; give one with config.json and *.safetensors in it.")
        fields = JsonFields.read(directory / "config.json")
        name, architecture = _architecture(fields)
        _refuse_unsupported(fields)
        return _model_config(fields, name, architecture, _generation_eos(directory))

    @property
    def num_parameters(self) -> int:
        """The number of weights, tied ones counted once."""
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        query = self.num_heads * self.head_dim
        attention = hidden * (query + 2 * kv) + query * hidden
        attention += self.qkv_bias * (query + 2 * kv) + self.output_bias * hidden + self.qk_norm * 2 * self.head_dim
        mlp = 3 * hidden * self.intermediate_size + self.mlp_bias * (2 * self.intermediate_size + hidden)
        embeddings = self.vocab_size * hidden * (1 if self.tie_embeddings else 2)
        return self.num_layers * (attention + mlp + 2 * hidden) + hidden + embeddings

    def weight_bytes(self, bytes_per_value: int) -> int:
        """Memory of the weights when each value takes `bytes_per_value` (4 for float32, 2 for bfloat16)."""
        return self.num_parameters * bytes_per_value

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Memory of one position's keys and values over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


def _architecture(fields: JsonFields) -> tuple[str, Architecture]:
    rule = f"supported are {', '.join(ARCHITECTURES)}"
    names = fields.raw("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", f"it must be a list with one name; {rule}")
    if names[0] not in ARCHITECTURES:
        raise fields.error("architectures", rule)
    return names[0], ARCHITECTURES[names[0]]


def _refuse_unsupported(fields: JsonFields) -> None:
    quantization = fields.inner("quantization_config")
    if quantization is not None:
        method = quantization.raw("quant_method") or "an unnamed method"
        raise LoadError(
            f"{fields.path}: quantization_config says that the weights are quantized with {method}; quantized "
            "checkpoints cannot be loaded. Use the original float16, bfloat16 or float32 checkpoint."
        )
    if fields.raw("hidden_act") not in (None, "silu"):
        raise fields.error("hidden_act", "only silu is supported")


def _model_config(
    fields: JsonFields, name: str, architecture: Architecture, generation_eos: frozenset[int]
) -> ModelConfig:
    num_layers, max_position = fields.count("num_hidden_layers"), fields.count("max_position_embeddings")
    num_heads, num_kv_heads, head_dim = _heads(fields, architecture)
    attention_bias = architecture.attention_bias == "config" and fields.flag("attention_bias")
    return ModelConfig(
        architecture=name,
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        norm_eps=fields.number("rms_norm_eps"),
        rope=_rope(fields, max_position),
        windows=_windows(fields, architecture, num_layers),
        qkv_bias=attention_bias or architecture.attention_bias == "qkv",
        output_bias=attention_bias,
        mlp_bias=architecture.mlp_bias and fields.flag("mlp_bias"),
        qk_norm=architecture.qk_norm,
        tie_embeddings=fields.flag("tie_word_embeddings"),
        eos_token_ids=fields.token_ids("eos_token_id") | generation_eos,
        dtype=_dtype(fields),
    )


def _heads(fields: JsonFields, architecture: Architecture) -> tuple[int, int, int]:
    num_heads = fields.count("num_attention_heads")
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
    if architecture.window == "all":
        # null switches the window off; a missing field means the architecture's own.
        is_given = fields.is_given("sliding_window")
        window = fields.optional_count("sliding_window") if is_given else architecture.default_window
        return (window,) * num_layers
    if architecture.window == "none" or not fields.flag("use_sliding_window"):
        return (None,) * num_layers
    window = fields.optional_count("sliding_window")
    return tuple(window if slides else None for slides in _sliding_layers(fields, num_layers))


def _sliding_layers(fields: JsonFields, num_layers: int) -> list[bool]:
    if not fields.has("layer_types"):
        first = fields.raw("max_window_layers")
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise fields.error("max_window_layers", "with use_sliding_window it must be a whole number")
        return [layer >= first for layer in range(num_layers)]
    types = fields.raw("layer_types")
    known = ["full_attention", "sliding_attention"]
    if not isinstance(types, list) or len(types) != num_layers or not all(kind in known for kind in types):
        raise fields.error("layer_types", f"it must list one of {', '.join(known)} for each layer")
    return [kind == "sliding_attention" for kind in types]


def _rope(fields: JsonFields, max_position: int) -> RopeConfig:
    """Read `rope_parameters` of transformers 5, or the `rope_theta` and `rope_scaling` (kind in `type`) of older ones."""
    name = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    rope = fields.inner(name)
    for part in (fields, rope):
        if part is not None and part.number("partial_rotary_factor", 1.0) != 1.0:
            raise part.error("partial_rotary_factor", "only 1, which rotates all of a head, is supported")
    theta = fields.number("rope_theta", 10_000.0)
    if rope is None:
        return RopeConfig(theta=theta)
    theta = rope.number("rope_theta", theta)
    kind = rope.raw("rope_type") or rope.raw("type") or "default"
    if kind not in ROPE_TYPES:
        raise fields.error(name, f"supported rope types are {', '.join(ROPE_TYPES)}")
    if kind in {"default", "dynamic"}:
        return RopeConfig(theta=theta, kind=kind)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=rope.number("factor"))
    original = rope.count("original_max_position_embeddings", max_position)
    if kind == "llama3":
        return _llama3_rope(rope, theta, original)
    return _yarn_rope(rope, theta, original)


def _llama3_rope(rope: JsonFields, theta: float, original: int) -> RopeConfig:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.error("low_freq_factor", f"it must be less than high_freq_factor, which is {high:g}")
    return RopeConfig(
        theta=theta,
        kind="llama3",
        factor=rope.number("factor"),
        original_max_position=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_rope(rope: JsonFields, theta: float, original: int) -> RopeConfig:
    factor = rope.number("factor")
    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_max_position=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=rope.number("attention_factor", _yarn_attention_factor(rope, factor)),
        truncate=rope.flag("truncate", True),
    )


def _yarn_attention_factor(rope: JsonFields, factor: float) -> float:
    """Section 3.4 of the YaRN paper; `mscale` and `mscale_all_dim` are DeepSeek's refinement."""
    if rope.raw("mscale") and rope.raw("mscale_all_dim"):
        return _mscale(factor, rope.number("mscale")) / _mscale(factor, rope.number("mscale_all_dim"))
    return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def _generation_eos(directory: Path) -> frozenset[int]:
    path = directory / "generation_config.json"
    return JsonFields.read(path).token_ids("eos_token_id") if path.exists() else frozenset()


def _dtype(fields: JsonFields) -> str | None:
    """The name that transformers 5 writes as `dtype` and older ones as `torch_dtype`."""
    value = fields.raw("dtype") or fields.raw("torch_dtype")
    return value if isinstance(value, str) else None
