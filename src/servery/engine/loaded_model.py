"""From a configuration to a model in memory: planned first, then read, with its KV cache and whoever drafts for it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.available_memory import available_bytes
from servery.engine.config import EngineConfig
from servery.engine.decoder import Decoder
from servery.engine.held_tensors import held, memory_of
from servery.engine.kv import KVCache
from servery.engine.kv_format import KVFormat, resolve_kv_format
from servery.engine.loader import build_decoder
from servery.engine.lora.adapter import ADAPTER_DTYPE
from servery.engine.lora.reader import AdapterLimits
from servery.engine.lora.sites import adapter_values
from servery.engine.memory import KVPlan, plan_kv
from servery.engine.native.choice import choose_kernels, kernels_name
from servery.engine.quantization.config import stored_method
from servery.engine.quantizer.choice import quantizer_for
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.sampling import sampler_of
from servery.engine.sampling_rows import SamplingRows
from servery.engine.shortage import shortages
from servery.engine.speculation.loading import ProposerSource, open_proposer
from servery.engine.speculation.proposer import Proposer
from servery.engine.stats import EngineInfo
from servery.engine.swap import Swap
from servery.engine.threads import use_threads
from servery.engine.weights import Progress, WeightReader, open_weights

# Measured with one thread of a Zen 4 CPU: at 2.6M parameters float32 decodes faster, at 15M bfloat16 does.
BFLOAT16_FROM_PARAMETERS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What an engine computes with. `rows` is shared by those who sample: the model's runner and its proposer."""

    model_config: ModelConfig
    plan: KVPlan
    model: Decoder
    cache: KVCache
    proposer: Proposer | None
    rows: SamplingRows
    adapter_limits: AdapterLimits
    info: EngineInfo

    def swap(self, folder: Path | None) -> Swap:
        """The memory of all weights and KV caches, the draft model's among them, to be made before anything is computed."""
        parts = (self.model, self.cache, self.proposer)
        caches = held(KVCache, parts)
        weights = memory_of(held(Tensor, held(Decoder, parts)))
        return Swap(weights, memory_of(t for cache in caches for t in (*cache.layers, *cache.scales)), folder)


def load(config: EngineConfig, *, progress: Progress | None, planned: Callable[[KVPlan], None]) -> LoadedModel:
    """Load the model and reserve its KV cache; raises `LoadError`.

    `progress` is told (bytes done, bytes total), `planned` what memory will be taken, before it is.
    """
    started = time.monotonic()
    threads = use_threads(config.threads)
    native = choose_kernels(config.kernels, threads)
    model_config = ModelConfig.load(config.model)
    dtype = resolve_dtype(config.dtype, model_config)
    kv_format = resolve_kv_format(config.kv_dtype, dtype)
    limits = AdapterLimits(max_loras=config.adapter_places, max_rank=config.max_lora_rank)
    quantizer = quantizer_for(config, model_config)
    rows = SamplingRows(sampler_of(native))
    with (
        open_weights(config.model, model_config, dtype, progress=progress) as weights,
        open_proposer(config, model_config, dtype, native) as source,
    ):
        plan = plan_kv(
            config,
            max_position=model_config.max_position,
            kv_bytes_per_token=kv_format.bytes_per_token(model_config) + source.kv_bytes_per_token,
            weight_bytes=_planned_bytes(weights, quantizer, model_config) + source.weight_bytes,
            available=available_bytes(),
            adapter_bytes=limits.max_loras * adapter_values(model_config, limits.max_rank) * ADAPTER_DTYPE.itemsize,
        )
        planned(plan)
        with shortages(config, plan):
            model = build_decoder(model_config, weights, quantizer, native)
            proposer = source.load(plan.num_blocks, plan.block_size, rows)
            cache = KVCache(model_config, plan.num_blocks, plan.block_size, dtype, kv_format=kv_format)
    if model.loop is not None:
        use_threads(1)  # the loop has threads of its own; torch's would only take their cores
    load_s = time.monotonic() - started
    return LoadedModel(
        model_config=model_config,
        plan=plan,
        model=model,
        cache=cache,
        proposer=proposer,
        rows=rows,
        adapter_limits=limits,
        info=_info(config, model_config, plan, source, model, kv_format, kernels_name(native), threads, load_s),
    )


def resolve_dtype(name: str, model_config: ModelConfig) -> torch.dtype:
    """The torch dtype for an `EngineConfig.dtype`.

    "auto" is the checkpoint's own if that is bfloat16 and the model is large enough for reading weights to be what a
    step waits for; else float32, which is exact, and faster for small models (a 2.6M model decodes 2.2 times as fast).
    """
    if name == "auto":
        is_large = model_config.num_parameters >= BFLOAT16_FROM_PARAMETERS
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - the only way to ask torch
        name = "bfloat16" if model_config.dtype == "bfloat16" and is_large and has_bfloat16 else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _planned_bytes(weights: WeightReader, quantizer: Quantizer | None, model_config: ModelConfig) -> int:
    """Memory that the weights will take."""
    if quantizer is None:
        return weights.total_bytes
    return quantizer.plan.weight_bytes(model_config, weights.dtype.itemsize)


def _held(model: Decoder, config: ModelConfig) -> str:
    """The type of the weights in memory, of a model that is computed in another; by how many bytes they take."""
    is_half = model.dtype == torch.float32 and model.weight_bytes < 0.75 * config.weight_bytes(4)
    return "bfloat16" if is_half else ""


def _info(
    config: EngineConfig,
    model_config: ModelConfig,
    plan: KVPlan,
    source: ProposerSource,
    model: Decoder,
    kv_format: KVFormat,
    kernels: str,
    threads: int,
    load_s: float,
) -> EngineInfo:
    positions = plan.num_blocks * plan.block_size
    kv_bytes_per_token = kv_format.bytes_per_token(model_config)
    return EngineInfo(
        architecture=model_config.architecture,
        vocab_size=model_config.vocab_size,
        hidden_size=model_config.hidden_size,
        parameters=model_config.num_parameters,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=config.quantize or stored_method(config.model),
        held=_held(model, model_config),
        device="cpu",
        kernels=kernels,
        threads=threads,
        max_model_len=plan.max_model_len,
        max_running=config.max_running,
        max_step_tokens=config.max_step_tokens,
        block_size=plan.block_size,
        num_blocks=plan.num_blocks,
        kv_dtype=kv_format.name,
        kv_bytes=positions * kv_bytes_per_token,
        kv_bytes_per_token=kv_bytes_per_token,
        weight_bytes=model.weight_bytes,
        max_loras=config.adapter_places,
        max_lora_rank=config.max_lora_rank,
        adapter_reserve_bytes=plan.adapter_bytes,
        speculate=config.speculate,
        draft_weight_bytes=source.weight_bytes,
        draft_kv_bytes=positions * source.kv_bytes_per_token,
        load_s=load_s,
        pid=os.getpid(),
    )
