"""From a configuration to a model in memory: planned first, then read, with its KV cache and whoever drafts for it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.available_memory import available_bytes
from servery.engine.config import EngineConfig, StepLimits
from servery.engine.decode_graphs import SPARE_BLOCKS
from servery.engine.decoder import Decoder
from servery.engine.device import CPU, check_float8, device_name, free_bytes, resolve_device, use_device
from servery.engine.device_kernels import open_device_kernels
from servery.engine.device_memory import estimate_reserve, measure_workspace
from servery.engine.dtype import resolve_dtype
from servery.engine.errors import LoadError
from servery.engine.held_tensors import held, memory_of
from servery.engine.kv import KVCache
from servery.engine.kv_format import KVFormat, resolve_kv_format
from servery.engine.launch import Launcher
from servery.engine.launching import open_launcher
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.lora.adapter import ADAPTER_DTYPE
from servery.engine.lora.reader import AdapterLimits
from servery.engine.lora.sites import adapter_values
from servery.engine.memory import KVPlan, Reserve, plan_kv
from servery.engine.native.choice import choose_kernels, kernels_name
from servery.engine.native.library import NativeContext
from servery.engine.parallel.part import Part, Ranks, ranks_of
from servery.engine.placing import DevicePlacing, LoadMeter
from servery.engine.quantization.config import stored_method
from servery.engine.quantizer.choice import quantizer_for
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.ranks.crew import LOSS_PATIENCE_S, Crew
from servery.engine.ranks.loading import LoadedPart, check_alike, check_alone, load_part
from servery.engine.ranks.messages import Begin
from servery.engine.sampling import sampler_of
from servery.engine.sampling_rows import SamplingRows
from servery.engine.shortage import shortages
from servery.engine.speculation.loading import ProposerSource, lookup_source, open_proposer
from servery.engine.speculation.proposer import Proposer
from servery.engine.stats import EngineInfo
from servery.engine.swap import Swap
from servery.engine.threads import use_threads
from servery.engine.weights import Progress, WeightReader, open_weights


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
    step_limits: StepLimits
    info: EngineInfo
    crew: Crew | None = None
    launcher: Launcher | None = None

    def swap(self, folder: Path | None) -> Swap:
        """The memory of all weights and KV caches, the draft model's among them, to be made before anything is computed."""
        parts = (self.model, self.cache, self.proposer)
        caches = held(KVCache, parts)
        weights = memory_of(held(Tensor, held(Decoder, parts)))
        return Swap(weights, memory_of(t for cache in caches for t in (*cache.layers, *cache.scales)), folder)


def load(
    config: EngineConfig,
    *,
    progress: Progress | None,
    planned: Callable[[KVPlan], None],
    on_death: Callable[[str], None] = lambda message: None,
    wait: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Load the model and reserve its KV cache; raises `LoadError`, `EngineDead` if another process ends when all have loaded.

    `progress` is told (bytes done, bytes total), `planned` what memory will be taken, before it is; `on_death`, of
    several processes, why the model can compute no more: on a thread of its own. `wait` is called now and then while
    other machines are waited for, and may raise to end that.
    """
    if config.num_ranks > 1:
        return _load_together(config, progress=progress, planned=planned, on_death=on_death, wait=wait)
    started = time.monotonic()
    made = _decide(config)
    limits = AdapterLimits(max_loras=config.adapter_places, max_rank=config.max_lora_rank)
    model_config, dtype, kv_format, device = made.model_config, made.dtype, made.kv_format, made.target.device
    quantizer = quantizer_for(config, model_config)
    rows = SamplingRows(sampler_of(made.native))
    with (
        open_weights(config.model, model_config, dtype, progress=progress) as weights,
        open_proposer(config, model_config, dtype, made.native, device) as source,
    ):
        plan_with = partial(
            plan_kv,
            config,
            max_position=model_config.max_position,
            kv_bytes_per_token=kv_format.bytes_per_token(model_config) + source.kv_bytes_per_token,
            weight_bytes=_planned_bytes(weights, quantizer, model_config) + source.weight_bytes,
            adapter_bytes=limits.max_loras * adapter_values(model_config, limits.max_rank) * ADAPTER_DTYPE.itemsize,
        )
        plan = plan_with(available=available_bytes() if device == CPU else free_bytes(device), reserve=made.reserve)
        planned(plan)
        with shortages(config, plan):
            model = build_decoder(model_config, weights, quantizer, made.native, made.target)
            plan = _measured(config, made, model, plan, plan_with)
            proposer = source.load(plan.num_blocks, plan.block_size, rows)
            num_blocks = plan.num_blocks + (0 if device == CPU else SPARE_BLOCKS)
            cache = KVCache(model_config, num_blocks, plan.block_size, dtype, str(device), kv_format)
    if model.loop is not None:
        use_threads(1)  # the loop has threads of its own; torch's would only take their cores
    launcher = _launcher(made, model, cache, plan.max_model_len)
    load_s = time.monotonic() - started
    return LoadedModel(
        model_config=model_config,
        plan=plan,
        model=model,
        cache=cache,
        proposer=proposer,
        rows=rows,
        adapter_limits=limits,
        step_limits=made.step_limits,
        launcher=launcher,
        info=_info(
            config, model_config, plan, source, model, kv_format, made.kernels_name, made.threads, load_s, made.meter
        ),
    )


@dataclass(frozen=True, slots=True)
class _Decided:
    """What a configuration and a machine come to, before anything is read. `reserve` is a GPU's."""

    target: LoadTarget
    native: NativeContext | None
    threads: int
    model_config: ModelConfig
    dtype: torch.dtype
    kv_format: KVFormat
    step_limits: StepLimits
    reserve: Reserve | None

    @property
    def kernels_name(self) -> str:
        """What is told of the kernels."""
        return kernels_name(self.native) if self.target.kernels is None else "triton"

    @property
    def meter(self) -> LoadMeter:
        """What went over the link to a GPU."""
        return self.target.place.meter if isinstance(self.target.place, DevicePlacing) else LoadMeter()


def _decide(config: EngineConfig) -> _Decided:
    device = resolve_device(config.device)
    on_gpu = device.type == "cuda"
    use_device(device)
    threads = use_threads(config.threads)
    native = _native(config, device, threads)
    model_config = ModelConfig.load(config.model)
    dtype = resolve_dtype(config.dtype, model_config, device)
    for option in config.float8_options:
        check_float8(device, option)
    limits = config.step_limits(on_gpu=on_gpu)
    kernels = open_device_kernels(device, dtype, config.kernels, batch_invariant=config.batch_invariant)
    return _Decided(
        target=LoadTarget(device, DevicePlacing(device) if on_gpu else None, kernels),
        native=native,
        threads=threads,
        model_config=model_config,
        dtype=dtype,
        kv_format=resolve_kv_format(config.kv_dtype, dtype, str(device)),
        step_limits=limits,
        reserve=estimate_reserve(model_config, limits, dtype.itemsize) if on_gpu else None,
    )


def _measured(
    config: EngineConfig, made: _Decided, model: Decoder, plan: KVPlan, plan_with: Callable[..., KVPlan]
) -> KVPlan:
    """The plan with what a step really takes of a GPU; on a CPU the plan as it was."""
    if made.reserve is None:
        return plan
    if isinstance(made.target.place, DevicePlacing):
        made.target.place.close()
    model.reserve(plan.max_model_len)
    taken = measure_workspace(model, made.kv_format, made.step_limits, config.block_size, plan.max_model_len)
    left = free_bytes(model.device) + model.weight_bytes
    return plan_with(available=left, reserve=replace(made.reserve, workspace_bytes=taken))


def _launcher(made: _Decided, model: Decoder, cache: KVCache, max_context: int) -> Launcher | None:
    """On a GPU, which need not wait for the host; a CPU is the host."""
    if model.device == CPU:
        return None
    can_capture = made.target.kernels is not None
    return open_launcher(model, cache, made.step_limits, max_context, can_capture=can_capture, logits=model.logits)


def _load_together(
    config: EngineConfig,
    *,
    progress: Progress | None,
    planned: Callable[[KVPlan], None],
    on_death: Callable[[str], None],
    wait: Callable[[], None],
) -> LoadedModel:
    """Load the first process's part while others load theirs; raises `LoadError` with what any of them says."""
    started = time.monotonic()
    ranks = ranks_of(config)
    check_alone(config)
    Part(ModelConfig.load(config.model), ranks)  # what cannot be divided is refused before anybody starts
    config = replace(config, device=resolve_device(config.device).type)  # where one finds no GPU, none goes without
    crew = Crew(config, ranks, on_death)
    try:
        crew.gather(wait)
        own = load_part(config, ranks, progress=progress, planned=planned)
        others = crew.loaded()
        check_alike(own.model.dtype, others)
        num_blocks = min(own.plan.num_blocks, *(each.num_blocks for each in others))
        crew.begin(Begin(num_blocks, own.plan.max_model_len))
        try:
            cache = own.begin(num_blocks, own.plan.max_model_len, crew.place)
        except RuntimeError:
            crew.check(LOSS_PATIENCE_S)  # if one of them is gone, that is why
            raise
    except BaseException:
        crew.close()
        raise
    block_bytes = own.plan.kv_bytes // own.plan.num_blocks
    plan = replace(own.plan, num_blocks=num_blocks, kv_bytes=num_blocks * block_bytes)
    rows = SamplingRows(sampler_of(None))
    source = lookup_source(config)
    proposer = source.load(num_blocks, plan.block_size, rows)
    load_s = time.monotonic() - started
    info = _info(
        config, own.part.whole, plan, source, own.model, own.kv_format, own.kernels, own.threads, load_s, own.meter
    )
    weight_bytes = own.model.weight_bytes + sum(each.weight_bytes for each in others)
    return LoadedModel(
        model_config=own.part.whole,
        plan=plan,
        model=own.model.led_by(crew),
        cache=cache,
        proposer=proposer,
        rows=rows,
        adapter_limits=AdapterLimits(max_loras=0, max_rank=config.max_lora_rank),
        step_limits=config.step_limits(on_gpu=own.model.device.type == "cuda"),
        crew=crew,
        launcher=own.launcher,
        info=structs.replace(info, weight_bytes=weight_bytes, **_ranks_facts(own, ranks)),
    )


def _ranks_facts(own: LoadedPart, ranks: Ranks) -> dict[str, Any]:
    """What `EngineInfo` tells of several processes; a layer takes two sums."""
    cost = own.sum_cost
    sums = 2 * own.part.whole.num_layers + 1
    return {
        "tensor_parallel": ranks.tensor,
        "pipeline_parallel": ranks.pipeline,
        "nnodes": ranks.nodes,
        "sum_s": cost.one_s if cost else 0.0,
        "step_sums_s": sums * cost.one_s if cost else 0.0,
    }


def _native(config: EngineConfig, device: torch.device, threads: int) -> NativeContext | None:
    if device.type == "cpu":
        return choose_kernels(config.kernels, threads)
    if config.kernels == "native":
        raise LoadError(f"--kernels native are for a CPU, and --device is {device}; take auto, or torch.")
    return None


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
    meter: LoadMeter,
) -> EngineInfo:
    limits = config.step_limits(on_gpu=model.device.type == "cuda")
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
        device=device_name(model.device),
        kernels=kernels,
        threads=threads,
        max_model_len=plan.max_model_len,
        max_running=limits.max_running,
        max_step_tokens=limits.max_step_tokens,
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
        workspace_bytes=plan.reserve.workspace_bytes,
        load_s=load_s,
        link_bytes_per_s=meter.bytes_per_s,
        pid=os.getpid(),
    )
