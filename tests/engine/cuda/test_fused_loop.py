"""A step with the fused kernels computes what the decoder does operation by operation."""

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.cuda.device_kernels import open_kernels
from servery.engine.doorbell import Doorbell, Interrupted, Interruption
from servery.engine.kv import KVCache
from servery.engine.kv_format import FLOAT32, INT8
from servery.engine.loader import load_model
from tests.engine import checkpoints
from tests.engine.cuda.world import step_of

# Norms of either kind in each place, over heads, wide and late; biases, scalings, gates, windows, soft caps, layers side
# by side, latents, sinks.
MODELS = {
    "qwen3_tied": checkpoints.qwen3_tied,
    "gemma2": checkpoints.gemma2,
    "cohere2": checkpoints.cohere2,
    "hunyuan": lambda: checkpoints.hunyuan(head_dim=32),
    "granite_with_biases": checkpoints.granite_with_biases,
    "olmo3": checkpoints.olmo3,
    "deepseek_v2": checkpoints.deepseek_v2,
}
BLOCK = 8
TOKENS = [(7 * i * i + 3 * i) % 240 + 3 for i in range(40)]
STEPS = [
    [(TOKENS[:9], 0, range(4)), (TOKENS[20:23], 0, range(20, 23))],
    [(TOKENS[9:10], 9, range(4)), (TOKENS[23:24], 3, range(20, 23))],
]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A decoder by the name of its checkpoint, read once."""
    made = {}

    def of(name: str):
        if name not in made:
            path = checkpoints.save(MODELS[name](), tmp_path_factory.mktemp(name))
            made[name] = load_model(path, ModelConfig.load(path), torch.float32)
        return made[name]

    return of


def logits(model, kv_format, on_device: bool) -> torch.Tensor:
    """Of all steps' tokens."""
    cache, rows = KVCache(model.config, 32, BLOCK, model.dtype, kv_format=kv_format), []
    for step in STEPS:
        batch = Batch.build(step, BLOCK)
        rows.append(model.logits(model.forward(step_of(batch) if on_device else batch, cache)))
    return torch.cat(rows)


def fused(model):
    kernels = open_kernels(torch.device("cpu"), torch.float32)
    attention = kernels.attention(model.config, [layer.sinks for layer in model.layers])
    return kernels.wrap(model.with_attention(attention))


@pytest.mark.parametrize("name", ["qwen3_tied"])
def test_a_step_is_as_operation_by_operation(name: str, load) -> None:
    model = load(name)
    expected = logits(model, FLOAT32, on_device=False)
    torch.testing.assert_close(logits(fused(model), FLOAT32, on_device=True), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kv_format", [FLOAT32, INT8], ids=lambda each: each.name)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_every_kind_is_as_operation_by_operation(name: str, kv_format, load) -> None:
    model = load(name)
    expected = logits(model, kv_format, on_device=False)
    # One code of the cache that is rounded to the other side is a step of its scale.
    tolerance = 1e-4 if kv_format is FLOAT32 else 0.05
    torch.testing.assert_close(
        logits(fused(model), kv_format, on_device=True), expected, rtol=tolerance, atol=tolerance
    )


def test_a_step_that_is_rung_for_ends_early(load) -> None:
    model, bell = fused(load("qwen3_tied")), Doorbell(-1)
    heard = bell.rings
    bell.ring()
    cache = KVCache(model.config, 32, BLOCK, model.dtype)
    with pytest.raises(Interrupted):
        model.forward(step_of(Batch.build(STEPS[0], BLOCK)), cache, Interruption(bell, heard))
