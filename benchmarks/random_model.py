"""Checkpoints of random numbers in the shapes of real models: what the numbers are decides no time."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from servery.engine.architecture import ModelConfig
from servery.engine.weight_map import targets_of

WEIGHTS = "model.safetensors"
# Llama's layout with 88 million parameters.
LLAMA_88M: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": 0,
}
# The shape of Qwen3 with 473 million parameters: 946 MB as bfloat16.
QWEN3_473M: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": 5,
    "pad_token_id": 0,
}


def make_model(folder: Path, fields: dict[str, Any]) -> Path:
    """A checkpoint with these fields in its config, the same numbers each time; one that is there stays."""
    if (folder / WEIGHTS).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        source.name: torch.randn(source.shape, generator=generator).mul_(0.02).bfloat16()
        for target in targets_of(ModelConfig.load(folder))
        for source in target.sources
    }
    save_weights(folder, tensors)
    return folder


def save_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write them under another name first, so that a file that is there is whole."""
    unfinished = folder / f"{WEIGHTS}.part"
    save_file(tensors, unfinished, {"format": "pt"})
    unfinished.rename(folder / WEIGHTS)
