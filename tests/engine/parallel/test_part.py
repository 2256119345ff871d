"""A model that several processes share gives the logits of one, and none reads what is not its own."""

import dataclasses
from pathlib import Path

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.parallel.part import Part, Ranks, layers_of
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.parallel import threads

TOKENS = [(7 + 3 * at) % 250 for at in range(40)]
# Biases and untied; one key head; fused and sliding; experts of both kinds, shared and stacked; latents; sinks; caps.
SHARED = {
    "llama_with_biases": Ranks(2),
    "gemma2": Ranks(4),
    "phi3": Ranks(2, 3),
    "qwen2_moe": Ranks(2),
    "deepseek_v2": Ranks(2, 2),
    "gpt_oss": Ranks(2),
    "cohere2": Ranks(2),
    "glm4": Ranks(1, 2),
}


def saved(name: str, folder: Path) -> Path:
    return checkpoints.save(getattr(checkpoints, name)(), folder)


def logits_of(model, config: ModelConfig, rank: int = 0) -> torch.Tensor:
    """Of a prompt in two pieces beside another's token, as a step's rows would be."""
    cache = KVCache(config, 16, 8, torch.float32)
    rows = [(TOKENS[:30], 0, [1, 5, 2, 9, 7]), (TOKENS[5:9], 0, [3])]
    model.forward(Batch.build(rows, 8), cache)
    rows = [(TOKENS[30:], 30, [1, 5, 2, 9, 7]), (TOKENS[9:10], 4, [3])]
    hidden = model.forward(Batch.build(rows, 8), cache)
    if rank == 0:
        return model.logits(hidden)
    model.join_logits(len(hidden))
    return hidden


@pytest.mark.parametrize("name", SHARED)
def test_a_divided_model_gives_the_logits_of_the_whole(name: str, tmp_path: Path) -> None:
    path, ranks = saved(name, tmp_path), SHARED[name]
    config = ModelConfig.load(path)
    expected = logits_of(load_model(path, config, torch.float32), config)
    decoders, _ = threads.load(path, ranks)
    found = threads.together(lambda rank: logits_of(decoders[rank], decoders[rank].config, rank), ranks.count)[0]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("ranks", [Ranks(2), Ranks(4), Ranks(1, 3), Ranks(2, 2)], ids=str)
def test_no_process_reads_what_is_not_its_own(ranks: Ranks, tmp_path: Path) -> None:
    """Every matrix is read once over all processes; what all need besides are norms, and key heads fewer than they are."""
    path = saved("qwen2", tmp_path)
    config = ModelConfig.load(path)
    with open_weights(path, config, torch.float32) as reader:
        for layer in (None, *range(config.num_layers)):
            reader.read(layer)
        whole = reader.read_bytes
    _, read = threads.load(path, ranks)
    norms = (2 * config.num_layers + 1) * config.hidden_size * 4
    biases = config.num_layers * config.num_heads * config.head_dim * 4
    heads = (
        max(0, ranks.tensor - config.num_kv_heads) * config.num_layers * 2 * config.head_dim * (config.hidden_size + 1)
    )
    assert whole <= sum(read) <= whole + (ranks.tensor - 1) * (norms + biases) + heads * 4
    assert max(read) < 0.75 * whole


def test_stages_have_all_layers_in_order_and_nearly_as_many() -> None:
    for num_layers in range(1, 12):
        for pipeline in range(1, num_layers + 1):
            parts = [layers_of(num_layers, Ranks(1, pipeline, rank)) for rank in range(pipeline)]
            assert [layer for part in parts for layer in part] == list(range(num_layers))
            assert {len(part) for part in parts} <= {num_layers // pipeline, -(-num_layers // pipeline)}


def test_a_model_that_cannot_be_divided_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    config = ModelConfig.load(saved("qwen2", tmp_path))
    with pytest.raises(
        LoadError, match=r"--tensor-parallel 3 does not divide the model's 4 attention heads; it can be 2, 4\."
    ):
        Part(config, Ranks(3))
    with pytest.raises(LoadError, match=r"--pipeline-parallel is 4, but the model has 3 layers"):
        Part(config, Ranks(1, 4))
    with pytest.raises(LoadError, match=r"normalizes all heads of a token together.*--pipeline-parallel"):
        Part(dataclasses.replace(config, wide_qk_norm=True), Ranks(2))
    with pytest.raises(LoadError, match=r"--tensor-parallel 6 and the model's 4 key heads do not fit"):
        Part(dataclasses.replace(config, num_heads=12, num_kv_heads=4, intermediate_size=12), Ranks(6))
