import mmap
from pathlib import Path

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.kv import KVCache
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8, dequantize, quantize
from tests.engine import checkpoints


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ModelConfig.load(checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("qwen3")))


FORMATS = pytest.mark.parametrize("kv_format", [FLOAT32, BFLOAT16, INT8, FP8], ids=lambda each: each.name)
SCALED = pytest.mark.parametrize("kv_format", [INT8, FP8], ids=lambda each: each.name)


def cache_of(config, kv_format, num_blocks=4):
    return KVCache(config, num_blocks, 4, torch.float32, kv_format=kv_format)


def random_rows(config, count):
    return torch.randn(count, 2 * config.num_kv_heads * config.head_dim)


@FORMATS
def test_memory_is_what_the_format_says_per_token(config, kv_format):
    cache = cache_of(config, kv_format, num_blocks=10)
    taken = sum(stored.nbytes for stored in (*cache.layers, *cache.scales))
    assert taken == 10 * 4 * kv_format.bytes_per_token(config)
    assert taken == 10 * 4 * config.num_layers * cache.row_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_format_values_are_stored_as_they_are_computed(config, dtype):
    cache = KVCache(config, 4, 4, dtype)
    assert (cache.format.dtype, cache.layers[0].dtype, cache.scales) == (dtype, dtype, ())
    assert cache.read(0, slice(2, 9)).data_ptr() == cache.layers[0][2:].data_ptr()


@FORMATS
def test_writing_a_token_touches_its_slot_of_its_layer_only(config, kv_format):
    cache, rows = cache_of(config, kv_format), random_rows(config, 2)
    cache.write(1, torch.tensor([6, 3]), rows)
    expected = torch.zeros(16, 2, config.num_kv_heads, config.head_dim)
    heads = rows.view(2, 2, config.num_kv_heads, config.head_dim)
    if kv_format.largest is not None:
        heads = dequantize(*quantize(heads, kv_format), torch.float32)
    expected[[6, 3]] = heads.to(kv_format.dtype).float() if kv_format.largest is None else heads
    assert torch.equal(cache.read(1, slice(None)), expected)
    assert not cache.read(0, slice(None)).any()
    assert not cache.read(2, slice(None)).any()


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_and_the_same_slots_one_by_one_read_the_same(config, kv_format, dtype):
    cache = KVCache(config, 4, 4, dtype, kv_format=kv_format)
    cache.write(0, torch.arange(16), random_rows(config, 16).to(dtype))
    run, gathered = cache.read(0, slice(5, 12)), cache.read(0, torch.arange(5, 12))
    assert run.dtype == dtype
    assert torch.equal(run, gathered)


@SCALED
def test_what_is_stored_of_a_token_does_not_depend_on_its_company(config, kv_format):
    """Bit for bit, whoever is written with it, in whatever order, however often the slot was used before."""
    together, alone, rows = cache_of(config, kv_format), cache_of(config, kv_format), 50 * random_rows(config, 16)
    together.write(0, torch.arange(16).flip(0), rows.flip(0))
    for slot in (3, 3, *range(16)):
        alone.write(0, torch.tensor([slot]), random_rows(config, 1) * 1e6)  # a draft that was not accepted
        alone.write(0, torch.tensor([slot]), rows[slot : slot + 1])
    assert torch.equal(together.layers[0].view(torch.uint8), alone.layers[0].view(torch.uint8))
    assert torch.equal(together.scales[0], alone.scales[0])


def test_a_cache_takes_memory_only_where_it_is_written(config):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not tell what a process takes")
    before = int(statm.read_text().split()[1])
    cache = KVCache(config, 1 << 16, 16, torch.float32)
    grown = (int(statm.read_text().split()[1]) - before) * mmap.PAGESIZE
    total = sum(layer.nbytes for layer in cache.layers)
    assert total > 256 << 20
    assert grown < total / 16
