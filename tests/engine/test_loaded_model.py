"""What is loaded computes with as many threads as it was given, and not with twice as many."""

import pytest
import torch

from servery import amuse
from servery.engine.config import EngineConfig
from servery.engine.loaded_model import load
from tests.engine.native.kernels import best_context


@pytest.fixture(autouse=True)
def _threads():
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("kernels", "torch_threads"), [("native", 1), ("torch", 2)])
def test_torch_leaves_the_cores_to_the_loop(kernels, torch_threads):
    best_context()
    config = EngineConfig(
        model=amuse.path("draft"), kernels=kernels, threads=2, max_model_len=64, kv_memory_bytes=1 << 23
    )
    loaded = load(config, progress=None, planned=lambda plan: None)
    assert (loaded.model.loop is not None) == (kernels == "native")
    assert loaded.info.threads == 2
    assert torch.get_num_threads() == torch_threads
