"""Small random adapters in PEFT's layout, and the same weights merged into their base as the oracle does it."""

import copy
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

Pairs = dict[str, tuple[Tensor, Tensor]]


def pairs(model: PreTrainedModel, targets: Iterable[str], rank: int, seed: int) -> Pairs:
    """A [rank, in] and B [out, rank] for every linear layer of `model` whose name ends in one of `targets`."""
    generator = torch.Generator().manual_seed(seed)
    ends = tuple(f".{target}" for target in targets)
    return {
        name: (
            torch.randn(rank, module.in_features, generator=generator) / math.sqrt(module.in_features),
            torch.randn(module.out_features, rank, generator=generator) * 0.2,
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(ends)
    }


def write(folder: Path, weights: Pairs, **fields: Any) -> Path:
    """Write the adapter into `folder` as PEFT's save_pretrained does."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for module, (down, up) in weights.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = up.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    rank = len(next(iter(weights.values()))[0]) if weights else 4
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in weights}),
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    } | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def save(folder: Path, model: PreTrainedModel, *, targets: Iterable[str] = (*ATTENTION, *MLP), rank: int = 4, seed: int = 1,
         **fields: Any) -> Path:  # fmt: skip
    """A random adapter for `model` in `folder`."""
    return write(folder, pairs(model, targets, rank, seed), **fields)


def merged(model: PreTrainedModel, weights: Pairs, scales: Mapping[str, float] | float) -> PreTrainedModel:
    """A copy of `model` with W + scale * B A in place of each adapted W."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, (down, up) in weights.items():
            scale = scales if isinstance(scales, float) else scales[name]
            other.get_submodule(name).weight += scale * (up @ down)
    return other
