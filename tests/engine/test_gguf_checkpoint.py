"""Whole models: a GGUF file computes what the checkpoint that it was made of computes."""

import dataclasses

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from tests.engine import checkpoints
from tests.engine.checkpoints import MODELS
from tests.engine.gguf.exporter import export

# Those whose every fact a GGUF file can state.
EXPORTED = {
    **{
        name: MODELS[name]
        for name in (
            "llama2", "llama_with_biases", "llama3", "llama_linear_rope", "llama_yarn_rope", "qwen2", "qwen3",
            "qwen3_tied", "glm4", "glm4_whole_rope", "granite", "granite_with_biases", "olmo2", "phi3", "phi4_mini",
            "qwen3_moe",
        )
    },
    "mistral": lambda: checkpoints.mistral(sliding_window=None),
    "mixtral": lambda: checkpoints.mixtral(sliding_window=None),
    "gemma2": lambda: checkpoints.gemma2(query_pre_attn_scalar=32),
    "gemma3": lambda: checkpoints.gemma3(query_pre_attn_scalar=32),
    "gemma3_linear_rope": lambda: checkpoints.gemma3(
        query_pre_attn_scalar=32,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "smollm3": lambda: checkpoints.smollm3(no_rope_layer_interval=4, num_hidden_layers=5),
}  # fmt: skip


@pytest.fixture(scope="module", params=EXPORTED)
def pair(request, tmp_path_factory):
    """A checkpoint's folder and the GGUF file made of it."""
    folder = checkpoints.save(EXPORTED[request.param](), tmp_path_factory.mktemp(request.param))
    return folder, export(folder, folder / "model.gguf")


def logits(path, dtype=torch.float32):
    model = load_model(path, ModelConfig.load(path), dtype)
    cache = KVCache(model.config, 12, 16, model.dtype)
    tokens = torch.randint(3, 256, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    return model.logits(model.forward(Batch.build([(tokens, 0, list(range(12)))], 16), cache))


def test_its_config_is_that_of_the_checkpoint(pair):
    """But for rotation: rows may lie in another order, and llama3 is told by its factors."""
    folder, file = pair
    expected, found = ModelConfig.load(folder), ModelConfig.load(file)
    of_mistral = {"architecture": "LlamaForCausalLM"} if expected.architecture == "MistralForCausalLM" else {}
    expected = dataclasses.replace(expected, **of_mistral, dtype=None, ropes=found.ropes)
    rounded = {"norm_eps", "residual_scale", "attention_scale"}  # float32 in the file
    exact = {name: getattr(found, name) for name in expected.__dataclass_fields__ if name not in rounded}
    assert exact == {name: getattr(expected, name) for name in exact}
    assert [getattr(found, name) for name in rounded] == [pytest.approx(getattr(expected, name)) for name in rounded]


def test_its_logits_are_those_of_the_checkpoint(pair):
    folder, file = pair
    expected = logits(folder)
    assert float((logits(file) - expected).abs().max() / expected.abs().max()) <= 1e-5
