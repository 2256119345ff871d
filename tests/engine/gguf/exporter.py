"""Writes checkpoints in Hugging Face layout as GGUF files, by the rules of convert_hf_to_gguf.py in ggml-org/llama.cpp.

Names come from the tensor map of the package gguf, blocks from its quantization: neither is what we read with.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from safetensors.torch import load_file

_ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MixtralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
    "Qwen3MoeForCausalLM": gguf.MODEL_ARCH.QWEN3MOE,
    "GemmaForCausalLM": gguf.MODEL_ARCH.GEMMA,
    "Gemma2ForCausalLM": gguf.MODEL_ARCH.GEMMA2,
    "Gemma3ForCausalLM": gguf.MODEL_ARCH.GEMMA3,
    "Phi3ForCausalLM": gguf.MODEL_ARCH.PHI3,
    "SmolLM3ForCausalLM": gguf.MODEL_ARCH.SMOLLM3,
    "GraniteForCausalLM": gguf.MODEL_ARCH.GRANITE,
    "Glm4ForCausalLM": gguf.MODEL_ARCH.GLM4,
    "Olmo2ForCausalLM": gguf.MODEL_ARCH.OLMO2,
}
_INTERLEAVED = {gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.SMOLLM3, gguf.MODEL_ARCH.GRANITE}
_SLIDING = {gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3}
_SHIFTED = {gguf.MODEL_ARCH.GEMMA, *_SLIDING}
# config.json -> key, as they are.
_NUMBERS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_FLOATS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}

Change = Callable[[GGUFWriter], None]


def export(
    folder: Path,
    file: Path,
    kind: str = "F32",
    change: Change | None = None,
    *,
    blocks: Mapping[str, tuple[np.ndarray, str]] | None = None,
    leave_out: str = "",
    splits_experts: bool = False,
    **options: Any,
) -> Path:
    """Write the checkpoint in `folder` to `file` with matrices of `kind`, F16 where their rows do not divide.

    Its tokenizer and chat template go along if it has them. `change` may change the metadata; `blocks` are stored in
    place of the tensors of these names; `splits_experts` as old files do; `options` go to the writer.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = _ARCHITECTURES[config["architectures"][0]]
    writer = GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture], **options)
    _add_config(writer, config, architecture)
    if (folder / "tokenizer.json").exists():
        add_byte_level_tokenizer(writer, folder, config["vocab_size"])
    writer.add_eos_token_id(config["eos_token_id"])
    if change is not None:
        change(writer)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    stored = {_renamed(names, name): value for name, value in (blocks or {}).items()}
    for name, tensor in _tensors(load_file(folder / "model.safetensors"), config, architecture).items():
        if name in stored:
            raw, stored_kind = stored[name]
            writer.add_tensor(name, raw, raw_dtype=Kind[stored_kind])
        elif splits_experts and "_exps" in name:
            for number, part in enumerate(tensor):
                add_tensor(writer, name.replace("_exps", f".{number}"), part.float().numpy(), kind)
        elif name != leave_out:
            add_tensor(writer, name, tensor.float().numpy(), kind)
    for name, values in _factors(config, architecture).items():
        writer.add_tensor(f"{name}.weight", np.array(values, np.float32))
    finish(writer)
    return file


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    """A matrix as `kind`, a vector or the router of a mixture as F32."""
    wanted = Kind.F32 if values.ndim == 1 or "ffn_gate_inp" in name else Kind[kind]
    if values.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = Kind.F16
    writer.add_tensor(name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)


def add_byte_level_tokenizer(writer: GGUFWriter, folder: Path, vocab_size: int, pre: str = "amuse") -> None:
    """The tokenizer.json and the chat template in `folder`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    texts = {token_id: text for text, token_id in tokenizer["model"]["vocab"].items()}
    tokens, kinds = [], []
    for token_id in range(vocab_size):
        token = added.get(token_id)
        tokens.append(token["content"] if token else texts.get(token_id, f"[PAD{token_id}]"))
        kinds.append((3 if token["special"] else 4) if token else 1 if token_id in texts else 5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    declared = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if "chat_template" in declared:
        writer.add_chat_template(declared["chat_template"])


def _add_config(writer: GGUFWriter, config: Mapping[str, Any], architecture: gguf.MODEL_ARCH) -> None:
    prefix = writer.arch
    for field, key in _NUMBERS.items():
        if config.get(field) is not None:
            writer.add_uint32(f"{prefix}.{key}", config[field])
    for field, key in _FLOATS.items():
        if config.get(field) is not None:
            writer.add_float32(f"{prefix}.{key}", config[field])
    experts = config.get("num_local_experts") or config.get("num_experts")
    if experts:
        writer.add_expert_count(experts)
    if config.get("head_dim") and architecture is not gguf.MODEL_ARCH.GRANITE:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    _add_windows(writer, config, architecture)
    rope = config["rope_parameters"]
    whole = rope.get("full_attention", rope)
    writer.add_rope_freq_base(whole["rope_theta"])
    writer.add_rope_dimension_count(int(_head_dim(config) * whole.get("partial_rotary_factor", 1.0)))
    if whole["rope_type"] in {"linear", "yarn"}:
        writer.add_rope_scaling_type(gguf.RopeScalingType(whole["rope_type"]))
        writer.add_rope_scaling_factor(whole["factor"])
    if whole.get("original_max_position_embeddings") and whole["rope_type"] != "llama3":
        writer.add_rope_scaling_orig_ctx_len(whole["original_max_position_embeddings"])
    if whole["rope_type"] == "longrope":
        scale = config["max_position_embeddings"] / whole["original_max_position_embeddings"]
        factor = math.sqrt(1 + math.log(scale) / math.log(whole["original_max_position_embeddings"]))
        writer.add_rope_scaling_attn_factors(factor)


def _add_windows(writer: GGUFWriter, config: Mapping[str, Any], architecture: gguf.MODEL_ARCH) -> None:
    if architecture is gguf.MODEL_ARCH.PHI3:
        writer.add_sliding_window(config["sliding_window"] or 0)
    if architecture in _SLIDING:
        writer.add_sliding_window(config["sliding_window"])
        pattern = [kind == "sliding_attention" for kind in config["layer_types"]]
        if architecture is gguf.MODEL_ARCH.GEMMA3:
            writer.add_sliding_window_pattern(pattern)


def _factors(config: Mapping[str, Any], architecture: gguf.MODEL_ARCH) -> dict[str, list[float]]:
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "longrope":
        return {"rope_factors_long": rope["long_factor"], "rope_factors_short": rope["short_factor"]}
    if rope.get("rope_type") != "llama3":
        return {}
    dim, original = _head_dim(config), rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            span = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (original / wavelength - rope["low_freq_factor"]) / span
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs": factors}


def _tensors(
    stored: Mapping[str, torch.Tensor], config: Mapping[str, Any], architecture: gguf.MODEL_ARCH
) -> dict[str, torch.Tensor]:
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    found: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in stored.items():
        if ".experts." in name:
            before, _, after = name.partition(".experts.")
            number, _, part = after.partition(".")
            stem = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(part.split(".")[0], part.split(".")[0])
            layer = before.split(".")[2]
            experts.setdefault(f"model.layers.{layer}.mlp.experts.{stem}.weight", {})[int(number)] = tensor
            continue
        found[_renamed(names, name)] = _changed(tensor, name, config, architecture)
    for name, parts in experts.items():
        found[_renamed(names, name)] = torch.stack([parts[number] for number in range(len(parts))])
    return found


def _renamed(names: gguf.TensorNameMap, name: str) -> str:
    renamed = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert renamed is not None, name
    return renamed


def _changed(tensor: torch.Tensor, name: str, config: Mapping[str, Any], architecture: gguf.MODEL_ARCH) -> torch.Tensor:
    if architecture in _SHIFTED and name.endswith("norm.weight"):
        return tensor.float() + 1
    module = name.rsplit(".", 1)[0]
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rsplit(".", 1)[-1])
    if architecture not in _INTERLEAVED or heads is None:
        return tensor
    halves = tensor.reshape(config[heads], 2, tensor.shape[0] // config[heads] // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
