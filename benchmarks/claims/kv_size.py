"""What a token's keys and values take, on the shapes of real models: the formula against memory that was really taken."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings
from benchmarks.claims.stage import Stage
from servery.engine.architecture import ModelConfig
from servery.engine.kv import KVCache
from servery.engine.request import NewRequest, SamplingParams

BLOCK = 16
_LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5}


def _llama(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int = 32000
) -> dict[str, Any]:
    return {
        **_LLAMA,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "Llama-2-7B": _llama(32, 4096, 11008, 32, 32),
    "Llama-2-13B": _llama(40, 5120, 13824, 40, 40),
    "Llama-2-70B": _llama(80, 8192, 28672, 64, 8),
    "Llama-3.1-8B": _llama(32, 4096, 14336, 32, 8, 128256),
}
_SMALL = _llama(2, 64, 128, 4, 2)


def config_of(name: str, stage: Stage) -> ModelConfig:
    """The model's shape, without weights."""
    folder: Path = stage.folder / "shapes" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(stage.pick(SHAPES[name], _SMALL)))
    return ModelConfig.load(folder)


def _measure(stage: Stage) -> dict[str, Any]:
    configs = {name: config_of(name, stage) for name in SHAPES}
    shapes = {name: taken(config, stage.pick(512, 64)) for name, config in configs.items()}
    return {"shapes": shapes, "blocks": held_blocks(stage, (30, 45, 12))}


def taken(config: ModelConfig, tokens: int) -> dict[str, float]:
    """Memory of a bfloat16 cache of which `tokens` are written: by the formula, of its tensors, and as the system sees it."""
    width = config.kv_planes * config.num_kv_heads * config.head_dim
    keys_values = torch.ones((tokens, width), dtype=torch.bfloat16)
    before = resident_bytes()
    cache = KVCache(config, -(-tokens // BLOCK), BLOCK, torch.bfloat16)
    for layer in range(config.num_layers):
        cache.write(layer, torch.arange(tokens), keys_values)
    resident = resident_bytes() - before
    return {
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "formula_bytes_per_token": config.num_layers * config.num_kv_heads * config.head_dim * 2 * 2,
        "formula_with_all_heads": config.num_layers * config.num_heads * config.head_dim * 2 * 2,
        "tensor_bytes_per_token": sum(layer.nbytes for layer in cache.layers) / (cache.num_blocks * BLOCK),
        "resident_bytes_per_token": resident / tokens,
        "weight_bytes": config.weight_bytes(2),
    }


def resident_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held_blocks(stage: Stage, prompts: tuple[int, ...]) -> int:
    """Blocks held by prompts of these lengths together, once they are computed."""
    core = stage.engine(stage.draft, block_size=BLOCK)
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    for length in prompts:
        core.add(NewRequest(request_id=str(length), prompt=[7] * length, params=params), seed=0)
    core.step()
    return core.stats().scheduler.held_blocks


def _readings(figures: Figures) -> Readings:
    shapes = figures["shapes"]
    per_token = {name: each["tensor_bytes_per_token"] for name, each in shapes.items()}
    of_7b, of_70b = per_token["Llama-2-7B"], per_token["Llama-2-70B"]
    return {
        "kv-formula": [Reading("Llama-2-7B", of_7b)],
        "kv-formula-everywhere": [
            Reading(name, each["resident_bytes_per_token"] / each["formula_bytes_per_token"])
            for name, each in shapes.items()
        ],
        "kv-4096": [Reading("Llama-2-7B", 4096 * of_7b / 1e9)],
        "kv-70b": [Reading("Llama-2-70B", of_70b / 1e6)],
        "kv-70b-4096": [Reading("Llama-2-70B", 4096 * of_70b / 1e9)],
        "kv-70b-batch": [Reading("Llama-2-70B", 8 * 4096 * of_70b / 1e9)],
        "kv-over-weights": [
            Reading(name, 8 * 4096 * per_token[name] / each["weight_bytes"]) for name, each in shapes.items()
        ],
        "weights-7b": [Reading("Llama-2-7B", shapes["Llama-2-7B"]["weight_bytes"] / 1e9)],
        "weights-70b": [Reading("Llama-2-70B", shapes["Llama-2-70B"]["weight_bytes"] / 1e9)],
        "blocks-on-demand": [Reading("three requests", figures["blocks"])],
    }


KV_SIZE = Measurement(
    "kv_size",
    15.0,
    "Caches of 512 tokens in bfloat16 on the shapes of Llama-2-7B, 13B, 70B and Llama-3.1-8B, every position written.",
    _measure,
    _readings,
)
