"""Models of real shapes with random weights, made where they are computed: nothing is read from a disk."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.gpu.parts import Machine
from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig, StepLimits
from servery.engine.core import EngineCore
from servery.engine.decode_graphs import SPARE_BLOCKS
from servery.engine.decoder import Decoder
from servery.engine.device import CPU
from servery.engine.device_kernels import open_device_kernels
from servery.engine.kv import KVCache
from servery.engine.kv_format import resolve_kv_format
from servery.engine.launching import open_launcher
from servery.engine.loaded_model import LoadedModel
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.lora.reader import AdapterLimits
from servery.engine.memory import KVPlan
from servery.engine.quantization.matrix import DenseMatrix, Float8Matrix, GroupMatrix, Matrix
from servery.engine.rope_config import RopeConfig
from servery.engine.sampling import sampler_of
from servery.engine.sampling_rows import SamplingRows
from servery.engine.stats import EngineInfo
from servery.engine.weight_map import Target, targets_of
from servery.engine.weights import WeightReader, Weights

GROUP = 128
BLOCK_SIZE = 16
_EXACT = frozenset({"embedding", "head"})


def shape_8b(machine: Machine) -> ModelConfig:
    """Llama 3.1 8B; dry: a toy."""
    if machine.is_dry:
        return _config("LlamaForCausalLM", 128, 128, 2, 4, 2, 32, 512)
    return _config("LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128, 128_256)


def shape_600m(machine: Machine) -> ModelConfig:
    """Qwen3 0.6B; dry: a toy."""
    if machine.is_dry:
        return replace(_config("Qwen3ForCausalLM", 64, 128, 2, 4, 2, 32, 512), qk_norm=True, tie_embeddings=True)
    made = _config("Qwen3ForCausalLM", 1024, 3072, 28, 16, 8, 128, 151_936)
    return replace(made, qk_norm=True, tie_embeddings=True)


def _config(
    name: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, dim: int, vocab: int
) -> ModelConfig:
    rope = RopeConfig(theta=500_000.0)
    return ModelConfig(
        architecture=name,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        max_position=32_768,
        norm_eps=1e-5,
        ropes=(rope,) * layers,
        windows=(None,) * layers,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tie_embeddings=False,
        eos_token_ids=frozenset(),
        dtype="bfloat16",
    )


class RandomReader:
    """In the place of a `WeightReader`: weights of the right shapes, quantized as `scheme` says (None: `dtype`)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, scheme: str | None) -> None:
        self.dtype = dtype
        self._device = device
        self._scheme = scheme
        self._generator = torch.Generator(device).manual_seed(0)
        self._targets: dict[int | None, list[Target]] = {}
        for target in targets_of(config):
            layer, _, key = target.key.partition(".")
            number = int(layer) if layer.isdecimal() else None
            self._targets.setdefault(number, []).append(Target(key, target.sources) if key else target)

    def read(self, layer: int | None, *arguments: object, **options: object) -> Weights:
        """The weights of a layer, or of what is around the layers."""
        weights = Weights({}, {}, self.dtype)
        for target in self._targets[layer]:
            if target.is_matrix:
                parts = (self._matrix(target.key, source.shape) for source in target.sources)
                weights.matrices[target.key] = tuple(parts)
            else:
                size = sum(source.shape[0] for source in target.sources)
                weights.tensors[target.key] = torch.ones(size, dtype=self.dtype, device=self._device)
        return weights

    def _matrix(self, key: str, shape: tuple[int, ...]) -> Matrix:
        rows, columns = shape
        if self._scheme is None or key in _EXACT:
            return DenseMatrix(self._normal(rows, columns).mul_(1 / math.sqrt(columns)).to(self.dtype))
        spread = 1 / math.sqrt(columns)
        if self._scheme == "fp8":
            codes = self._normal(rows, columns).clamp_(-4, 4).mul_(64).to(torch.float8_e4m3fn)
            return Float8Matrix(codes, torch.full((rows, 1), spread / 64, device=self._device))
        if self._scheme == "int8":
            scales = torch.full((rows, 1), spread / 40, dtype=torch.float32, device=self._device)
            return GroupMatrix(self._integers(-127, 128, (rows, columns)).to(torch.int8), scales)
        packed = self._integers(0, 256, (rows, columns // 2)).to(torch.uint8)
        scales = torch.full((rows, max(1, columns // GROUP)), spread / 5, dtype=torch.float32, device=self._device)
        return GroupMatrix(packed, scales, zeros=8, bits=4)

    def _normal(self, rows: int, columns: int) -> Tensor:
        return torch.randn((rows, columns), generator=self._generator, device=self._device, dtype=torch.float32)

    def _integers(self, low: int, high: int, shape: tuple[int, int]) -> Tensor:
        return torch.randint(low, high, shape, generator=self._generator, device=self._device, dtype=torch.int16)


def random_decoder(
    config: ModelConfig,
    device: torch.device,
    *,
    dtype: torch.dtype,
    scheme: str | None = None,
    kernels: str = "auto",
    batch_invariant: bool = False,
) -> Decoder:
    """A decoder with random weights."""
    opened = open_device_kernels(device, dtype, kernels, batch_invariant=batch_invariant)
    reader = cast(WeightReader, RandomReader(config, dtype, device, scheme))
    return build_decoder(config, reader, target=LoadTarget(device, None, opened))


def random_core(
    config: ModelConfig,
    machine: Machine,
    limits: StepLimits,
    *,
    max_model_len: int,
    kv_tokens: int,
    scheme: str | None = None,
    kv_dtype: str = "auto",
) -> EngineCore:
    """An engine over a model with random weights, which runs ahead as on any GPU."""
    device = machine.device
    dtype = torch.float32 if machine.is_dry else torch.bfloat16
    model = random_decoder(config, device, dtype=dtype, scheme=scheme)
    kv_format = resolve_kv_format(kv_dtype, dtype, str(device))
    num_blocks = -(-kv_tokens // BLOCK_SIZE)
    cache = KVCache(config, num_blocks + SPARE_BLOCKS, BLOCK_SIZE, dtype, str(device), kv_format)
    plan = KVPlan(num_blocks, BLOCK_SIZE, max_model_len, num_blocks * BLOCK_SIZE * kv_format.bytes_per_token(config))
    model.reserve(max_model_len)
    loaded = LoadedModel(
        model_config=config,
        plan=plan,
        model=model,
        cache=cache,
        proposer=None,
        rows=SamplingRows(sampler_of(None)),
        adapter_limits=AdapterLimits(max_loras=0, max_rank=1),
        step_limits=limits,
        launcher=open_launcher(model, cache, limits, max_model_len, can_capture=device != CPU, logits=model.logits),
        info=cast(EngineInfo, SimpleNamespace(speculate="off", device=str(device), vocab_size=config.vocab_size)),
    )
    settings = EngineConfig(
        model=Path("random"), max_running=limits.max_running, max_step_tokens=limits.max_step_tokens, prefix_cache=False
    )
    return EngineCore(settings, load=_given(loaded), ahead=True)


def _given(loaded: LoadedModel) -> Callable[..., LoadedModel]:
    def load(*arguments: Any, **options: Any) -> LoadedModel:
        return loaded

    return load
