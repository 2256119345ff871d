import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.kv import KVCache
from tests.engine import checkpoints


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ModelConfig.load(checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("qwen3")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_what_the_config_says_per_token(config, dtype):
    cache = KVCache(config, 10, 16, dtype)
    assert sum(layer.nbytes for layer in cache.layers) == 10 * 16 * config.kv_bytes_per_token(dtype.itemsize)


def test_writing_a_token_touches_its_slot_of_its_layer_only(config):
    cache = KVCache(config, 4, 4, torch.float32)
    rows = torch.randn(2, 2 * config.num_kv_heads * config.head_dim)
    cache.write(1, torch.tensor([6, 3]), rows)
    expected = torch.zeros_like(cache.layers[1])
    expected[[6, 3]] = rows.view(2, 2, config.num_kv_heads, config.head_dim)
    assert torch.equal(cache.layers[1], expected)
    assert not cache.layers[0].any()
    assert not cache.layers[2].any()
