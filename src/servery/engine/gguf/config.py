"""The metadata of a GGUF model as the fields of a config.json, so that one reader knows both. No torch."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servery.engine.errors import LoadError
from servery.engine.gguf.end_tokens import end_token_ids
from servery.engine.gguf.families import FAMILIES, MIXTRAL, Family, nearest_family
from servery.engine.gguf.files import GgufModel
from servery.engine.gguf.header import Array
from servery.engine.json_fields import JsonFields

_BFLOAT16, _FLOAT32 = 30, 0  # numbers of ggml types

# Field of config.json -> key after the architecture's name, for those whose value is taken as it is.
KEYS: Mapping[str, str] = {
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_local_base_freq": "rope.freq_base_swa",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "partial_rotary_factor": "rope.dimension_count",
    "rope_scaling": "rope.scaling.type",
    "sliding_window": "attention.sliding_window",
    "layer_types": "attention.sliding_window_pattern",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """What a GGUF model says of itself: the name of our architecture, and the fields of its config.json."""

    family: Family
    fields: JsonFields


class _Fields(JsonFields):
    """Fields whose errors name the key that the value came from."""

    def __init__(self, path: Path, fields: Mapping[str, Any], source: JsonFields, prefix: str) -> None:
        super().__init__(path, fields)
        self._source = source
        self._key_prefix = prefix

    def error(self, name: str, rule: str) -> LoadError:
        key = f"{self._key_prefix}.{KEYS.get(name, name)}"
        is_stored = self._source.has(key) or (name in KEYS and not self.is_given(name))
        return self._source.error(key, rule) if is_stored else super().error(name, rule)

    def inner(self, name: str) -> JsonFields | None:
        value = self.raw(name)
        is_scaling = name == "rope_scaling" and isinstance(value, dict)
        return JsonFields(self.path, value, f"{self._key_prefix}.rope.scaling.") if is_scaling else super().inner(name)


def read_config(model: GgufModel) -> GgufConfig:
    """What `model` is. Raises `LoadError` naming the key that is missing, malformed or not supported."""
    source = model.fields
    name, family = _family(source)
    reader = _Reader(model, name)
    taken = {field: source.raw(reader.key(field)) for field in KEYS if source.has(reader.key(field))}
    fields = {
        "norm_topk_prob": True,
        **taken,
        **reader.shape(),
        **reader.biases(),
        **reader.positions(),
        **reader.attention(family),
    }
    fields["eos_token_id"] = sorted(end_token_ids(source))
    fields["dtype"] = reader.dtype()
    return GgufConfig(family, _Fields(model.path, fields, source, name))


def _family(source: JsonFields) -> tuple[str, Family]:
    kind = source.raw("general.type")
    if kind not in (None, "model"):
        raise source.error("general.type", "only language models can be served, not parts of them")
    rule = f"supported are {', '.join(FAMILIES)}"
    name = source.raw("general.architecture")
    if not isinstance(name, str):
        raise source.error("general.architecture", rule)
    if name not in FAMILIES:
        raise source.error("general.architecture", f"{rule}; the nearest by name is {nearest_family(name)}")
    return name, MIXTRAL if name == "llama" and source.raw("llama.expert_count") else FAMILIES[name]


class _Reader:
    """Fields that take more than a look at one key."""

    def __init__(self, model: GgufModel, name: str) -> None:
        self._model = model
        self._source = model.fields
        self._name = name

    def key(self, field: str) -> str:
        return f"{self._name}.{KEYS[field]}"

    def count(self, field: str) -> int:
        return self._source.count(self.key(field))

    def shape(self) -> dict[str, Any]:
        """The sizes that follow from others."""
        hidden, heads = self.count("hidden_size"), self.count("num_attention_heads")
        head_dim = self._source.count(self.key("head_dim"), hidden // heads or 1)
        if self._source.count(f"{self._name}.attention.value_length", head_dim) != head_dim:
            raise self._source.error(f"{self._name}.attention.value_length", f"it must be key_length, {head_dim}")
        embedding = self._model.tensor("token_embd.weight")
        if embedding is None or len(embedding.dims) != 2:
            raise LoadError(f"{self._model.path} has no matrix token_embd.weight, which every language model has.")
        tokens = self._source.raw("tokenizer.ggml.tokens")
        if isinstance(tokens, Array) and tokens.count > embedding.dims[1]:
            rule = f"token_embd.weight has rows for {embedding.dims[1]} tokens only"
            raise self._source.error("tokenizer.ggml.tokens", rule)
        is_tied = self._model.tensor("output.weight") is None
        return {"head_dim": head_dim, "vocab_size": embedding.dims[1], "tie_word_embeddings": is_tied}

    def biases(self) -> dict[str, Any]:
        """Which layers have biases is not said; the first layer shows it."""
        has = {name: self._model.tensor(f"blk.0.{name}.bias") is not None for name in ("attn_q", "ffn_down")}
        return {"attention_bias": has["attn_q"], "mlp_bias": has["ffn_down"]}

    def positions(self) -> dict[str, Any]:
        """Rotary embedding: how much of a head rotates, its base and its scaling."""
        head_dim = self.shape()["head_dim"]
        rotary_dim = self._source.count(self.key("partial_rotary_factor"), head_dim)
        share = rotary_dim / head_dim
        fields: dict[str, Any] = {
            "partial_rotary_factor": share if int(head_dim * share) == rotary_dim else math.nextafter(share, math.inf),
            "rope_theta": self._source.number(self.key("rope_theta"), 10_000.0),
            "rope_scaling": self._scaling(),
        }
        original = self._source.raw(f"{self._name}.rope.scaling.original_context_length")
        return fields if original is None else fields | {"original_max_position_embeddings": original}

    def _scaling(self) -> dict[str, Any] | None:
        prefix = f"{self._name}.rope.scaling"
        factors, original = self._factors(), self._source.raw(f"{prefix}.original_context_length")
        if factors is not None:
            # Whatever they came from (llama3, longrope), each frequency is divided by its factor.
            context = original if self._name == "phi3" and original else self.count("max_position_embeddings")
            scale = self._source.number(f"{prefix}.attn_factor", 1.0)
            return {
                "rope_type": "longrope",
                "short_factor": factors,
                "original_max_position_embeddings": context,
                "attention_factor": scale,
            }
        kind = self._source.raw(f"{prefix}.type")
        if kind is None and self._source.has(f"{self._name}.rope.scale_linear"):  # the key before there were kinds
            return {"rope_type": "linear", "factor": self._source.raw(f"{self._name}.rope.scale_linear")}
        if kind in (None, "none"):
            return None
        keys = {
            "factor": "factor",
            "original_max_position_embeddings": "original_context_length",
            "beta_fast": "yarn_beta_fast",
            "beta_slow": "yarn_beta_slow",
        }
        given = {field: self._source.raw(f"{prefix}.{key}") for field, key in keys.items()}
        return {"rope_type": kind} | {field: value for field, value in given.items() if value is not None}

    def _factors(self) -> list[float] | None:
        """By what each pair's frequency is divided, where a tensor says it."""
        for name in ("rope_freqs.weight", "rope_factors_short.weight"):
            for header, info in self._model.tensors():
                if info.name == name:
                    length = math.prod(info.dims)
                    if info.kind != _FLOAT32 or length > self.shape()["head_dim"]:
                        raise LoadError(f"{header.path}: tensor {name} must be a short list of float32 numbers.")
                    return _floats(header.path, header.data_offset + info.offset, length, name)
        return None

    def attention(self, family: Family) -> dict[str, Any]:
        """Windows and scales, whose defaults are not those of a config.json."""
        windows = self._windows()
        if self._name == "granite" and not self._source.has(self.key("attention_multiplier")):
            return windows | {"attention_multiplier": self.shape()["head_dim"] ** -0.5}
        if self._name in {"gemma2", "gemma3"}:
            is_large = family.large_layers == self.count("num_hidden_layers")
            hidden_per_head = self.count("hidden_size") / self.count("num_attention_heads")
            return windows | {"query_pre_attn_scalar": hidden_per_head if is_large else self.shape()["head_dim"]}
        return windows

    def _windows(self) -> dict[str, Any]:
        key = self.key("sliding_window")
        if not self._source.raw(key):
            return {"sliding_window": None, "layer_types": None}  # 0 and nothing: no window
        if self._name == "olmo2":
            raise self._source.error(key, "OLMo 2 has no sliding window; OLMo 3 is not supported")
        pattern = self._source.raw(self.key("layer_types"))
        if isinstance(pattern, Array):
            kinds = ["sliding_attention" if slides else "full_attention" for slides in pattern.numbers()]
            return {"layer_types": kinds}
        return {"layer_types": None} if pattern is None else {"layer_types": None, "sliding_window_pattern": pattern}

    def dtype(self) -> str | None:
        """bfloat16 when that is what most weights are stored in."""
        kinds = [info.kind for _, info in self._model.tensors() if len(info.dims) > 1]
        return "bfloat16" if 2 * kinds.count(_BFLOAT16) > len(kinds) else None


def _floats(path: Path, offset: int, length: int, name: str) -> list[float]:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(4 * length)
    if len(data) < 4 * length:
        raise LoadError(
            f"{path} ends at byte {offset + len(data)}, in tensor {name}. It is truncated: download it again."
        )
    return list(struct.unpack(f"<{length}f", data))
