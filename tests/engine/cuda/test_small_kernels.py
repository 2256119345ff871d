"""Each way to compute what stands between matrix products gives the same."""

import pytest
import torch
from torch.nn import functional as F

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.cuda import small_kernels
from servery.engine.cuda.device_kernels import CudaKernels
from servery.engine.cuda.measured import Measured
from servery.engine.cuda.small_kernels import COMPILED, GATE, NORM, ROTATION, TORCH, WAYS, gating, summing
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.norm import RMSNorm
from servery.engine.traits import GELU_TANH, SILU, Clamp
from tests.engine import checkpoints


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """torch.compile takes long, and is torch's to test."""
    monkeypatch.setattr(torch, "compile", lambda work, dynamic: work)
    caches = (small_kernels._compiled_sum, small_kernels._compiled_gate)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


@pytest.mark.parametrize("way", WAYS[NORM])
def test_norms_of_sums(way: str) -> None:
    norm, hidden, part = RMSNorm(torch.randn(24), 1e-5), torch.randn(3, 24), torch.randn(3, 24)
    for given, total in ((part, hidden + part), (None, hidden)):
        normed, summed = summing(norm, way)(hidden, given)
        torch.testing.assert_close(normed, F.rms_norm(total, (24,), norm.scaled / 24**0.5, 1e-5))
        torch.testing.assert_close(summed, total)


@pytest.mark.parametrize("way", WAYS[GATE])
@pytest.mark.parametrize("activation", [SILU, GELU_TANH, Clamp(1.7, 7.0)])
def test_gates(way: str, activation: str | Clamp) -> None:
    gate_up = torch.randn(3, 32)
    expected = gating(activation, TORCH)(gate_up)
    torch.testing.assert_close(gating(activation, way)(gate_up), expected)


def test_a_step_is_computed_in_the_ways_that_were_found(tmp_path) -> None:
    path = checkpoints.save(checkpoints.qwen3_tied(), tmp_path)
    config = ModelConfig.load(path)
    model = load_model(path, config, torch.float32)
    measured = Measured(small={NORM: COMPILED, ROTATION: TORCH, GATE: TORCH})
    kernels = CudaKernels(torch.float32, measured, batch_invariant=False)
    hidden = [
        each.forward(Batch.build([([5, 6, 7], 0, [0])], 8), KVCache(config, 1, 8, torch.float32))
        for each in (model, kernels.wrap(model))
    ]
    torch.testing.assert_close(hidden[1], hidden[0], rtol=1e-5, atol=1e-5)
