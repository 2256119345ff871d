"""A small trained model in the shape of a larger one: its answers stay, its steps take what a model of that size takes.

What is added adds nothing to the result. Vectors become `widening` times as wide, the new part zero: rows that would
write into it are zero. A mean square over more numbers is smaller, which the norms' weights make good; the widening is
a power of 4, so that its root is a power of 2 and nothing is rounded. MLPs get features whose output column is zero,
and layers whose outputs are all zero follow the last. Kernels multiply zeros as they multiply anything else. All the
other new numbers are random. (The epsilon of the norms of queries and keys shrinks with the others: a relative 1e-6.)
"""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.random_model import WEIGHTS, save_weights
from servery.engine.architecture import ModelConfig
from servery.engine.weight_map import targets_of

_TO_HIDDEN = ("o_proj", "down_proj")


def grow(source: Path, folder: Path, *, widening: int, intermediate: int, layers: int) -> Path:
    """Write the model of `source`, of Qwen3's architecture with tied embeddings, in its larger shape to `folder`."""
    if (folder / WEIGHTS).exists():
        return folder
    if math.log(widening, 4) % 1:
        raise ValueError(f"widening is {widening}; its root must be a power of 2: choose 1, 4 or 16")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    fields = json.loads((source / "config.json").read_text())
    fields |= {
        "hidden_size": fields["hidden_size"] * widening,
        "rms_norm_eps": fields["rms_norm_eps"] / widening,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    stored, generator = load_file(source / WEIGHTS), torch.Generator().manual_seed(0)
    shapes = {each.name: each.shape for target in targets_of(ModelConfig.load(folder)) for each in target.sources}
    tensors = {name: _grown(name, shape, stored.get(name), widening, generator) for name, shape in shapes.items()}
    save_weights(folder, tensors)
    return folder


def _grown(
    name: str, shape: tuple[int, ...], stored: Tensor | None, widening: int, generator: torch.Generator
) -> Tensor:
    is_output = any(part in name for part in _TO_HIDDEN)
    is_embedding = "embed_tokens" in name
    if len(shape) == 1:
        return _norm(shape, stored, widening)
    grown = torch.randn(shape, generator=generator).mul_(0.02)
    if is_output or is_embedding:
        grown.zero_()  # else what is new would reach the result
    if stored is not None:
        rows, columns = stored.shape
        grown[:rows, :columns] = stored.float()
    return grown.bfloat16()


def _norm(shape: tuple[int, ...], stored: Tensor | None, widening: int) -> Tensor:
    """Of all features, smaller by the root of the widening; that of a head stays."""
    grown = torch.ones(shape)
    if stored is not None:
        is_of_head = stored.shape == shape and widening > 1
        grown[: len(stored)] = stored.float() if is_of_head else stored.float() / math.isqrt(widening)
    return grown.bfloat16()
