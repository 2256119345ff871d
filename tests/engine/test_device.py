"""Where a model is computed: which device, and that nothing of it stays behind on the host."""

from pathlib import Path

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.config import CPU_LIMITS, GPU_LIMITS, EngineConfig
from servery.engine.device import check_float8, device_name, resolve_device
from servery.engine.dtype import resolve_dtype
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.kv_format import resolve_kv_format
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.one_device import META, OneDevice, to_meta

ROWS = [(list(range(20)), 0, [0, 3, 5]), ([7], 30, [1, 2, 4, 6]), ([8], 11, [7, 8]), ([1, 2], 9, [9, 10])]


class FakeGPU:
    """What torch tells of CUDA, on a machine with one GPU of some generation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def test_auto_is_the_cpu_where_there_is_no_gpu_and_cuda_says_what_to_do() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(LoadError, match=r"--device cuda: this torch .* without CUDA\. Install a build.*--device cpu"):
        resolve_device("cuda")


def test_a_gpu_is_chosen_by_number_or_rank_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGPU(monkeypatch, (9, 0))
    assert resolve_device("auto") == resolve_device("cuda") == resolve_device("cuda:0") == torch.device("cuda", 0)
    assert device_name(torch.device("cuda", 0)) == "cuda:0 (Some GPU)"
    with pytest.raises(LoadError, match=r"--device cuda:3 needs GPU number 3, but torch finds 1: cuda:0 \(Some GPU\)"):
        resolve_device("cuda:3")
    with pytest.raises(LoadError, match=r"process 1 needs GPU number 1.*lower --tensor-parallel"):
        resolve_device("cuda", local_rank=1)


def test_a_gpu_computes_in_bfloat16_if_it_can_and_float8_needs_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    config, gpu = ModelConfig.load(tiny), torch.device("cuda", 0)
    FakeGPU(monkeypatch, (8, 0))
    assert resolve_dtype("auto", config, gpu) is torch.bfloat16
    assert resolve_dtype("float32", config, gpu) is torch.float32
    with pytest.raises(LoadError, match=r"--kv-dtype fp8 needs float8, .* from compute capability 8\.9 .* has 8\.0\."):
        check_float8(gpu, "--kv-dtype fp8")
    FakeGPU(monkeypatch, (7, 5))
    assert resolve_dtype("auto", config, gpu) is torch.float32
    FakeGPU(monkeypatch, (9, 0))
    check_float8(gpu, "--kv-dtype fp8")
    settings = [EngineConfig(model=tiny, **each) for each in ({}, {"kv_dtype": "fp8"}, {"quantize": "fp8"})]
    assert [each.float8_options for each in settings] == [(), ("--kv-dtype fp8",), ("--quantize fp8",)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu'; choose one of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:1", "tensor_parallel": 2}, "2 processes each need a device of their own: say cuda"),
        ({"tensor_parallel": 0}, "tensor_parallel is 0; it must be at least 1"),
        ({"tensor_parallel": 16, "pipeline_parallel": 8}, "are 128 processes; at most 64"),
        ({"max_running": 300, "max_step_tokens": 200}, "max_running is 300 and max_step_tokens is 200"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        EngineConfig(model=Path("m"), **settings)


def test_the_limits_of_a_step_are_those_of_the_device_where_none_are_given() -> None:
    config = EngineConfig(model=Path("m"), max_running=8)
    assert (config.step_limits(on_gpu=False), config.step_limits(on_gpu=True)) == ((8, 256), (8, 8192))
    config = EngineConfig(model=Path("m"))
    assert (config.step_limits(on_gpu=False), config.step_limits(on_gpu=True)) == (CPU_LIMITS, GPU_LIMITS)


@pytest.mark.parametrize("name", ["llama_with_biases", "gemma2", "phi3", "deepseek_v2", "olmo2", "cohere2"])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_step_stays_on_its_device(name: str, kv_dtype: str, tmp_path: Path) -> None:
    """Dense models never read a value back; what chooses experts does in plain torch, see `MixtureOfExperts`."""
    changes = {"first_k_dense_replace": 3} if name == "deepseek_v2" else {}
    path = checkpoints.save(getattr(checkpoints, name)(**changes), tmp_path)
    config = ModelConfig.load(path)
    with open_weights(path, config, torch.float32) as reader:
        model = build_decoder(config, reader, target=LoadTarget(META, to_meta))
    kv_format = resolve_kv_format(kv_dtype, torch.float32)
    cache = KVCache(config, 16, 8, torch.float32, "meta", kv_format)
    with OneDevice() as mode:
        hidden = model.forward(Batch.build(ROWS, 8), cache)
        logits = model.logits(hidden)
    assert (logits.device, logits.shape) == (META, (24, config.vocab_size))
    assert mode.reads == []
