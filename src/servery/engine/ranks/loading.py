"""A part of a model in the memory, or on the device, of one of several processes."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.available_memory import available_bytes
from servery.engine.config import EngineConfig, StepLimits
from servery.engine.decode_graphs import SPARE_BLOCKS
from servery.engine.device import check_float8, free_bytes, resolve_device, use_device
from servery.engine.device_kernels import open_device_kernels
from servery.engine.device_memory import estimate_reserve
from servery.engine.dtype import dtype_name, resolve_dtype
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.kv_format import KVFormat, resolve_kv_format
from servery.engine.launch import Launcher
from servery.engine.launching import open_launcher
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.memory import KVPlan, Reserve, plan_kv
from servery.engine.parallel.part import Part, Ranks
from servery.engine.parallel.team import SumCost, Team
from servery.engine.placing import DevicePlacing, LoadMeter
from servery.engine.quantization.scheme import AWQ
from servery.engine.quantizer.choice import quantizer_for
from servery.engine.ranks.meeting import check_can_meet, meet
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.messages import Loaded
from servery.engine.ranks.rank_decoder import RankDecoder
from servery.engine.shortage import shortages
from servery.engine.threads import default_threads, use_threads
from servery.engine.weights import Progress, open_weights

# What NCCL takes of a GPU for its connections and buffers.
EXCHANGE_BYTES = 1 << 30


@dataclass(slots=True)
class LoadedPart:
    """A part that is loaded. `plan` is what this process has room for; all take the least of any."""

    part: Part
    model: RankDecoder
    plan: KVPlan
    kv_format: KVFormat
    read_bytes: int
    threads: int
    kernels: str
    limits: StepLimits
    meter: LoadMeter
    launcher: Launcher = field(init=False)
    sum_cost: SumCost | None = None

    def begin(self, num_blocks: int, max_model_len: int, place: MeetingPlace) -> KVCache:
        """Meet the other processes, and make the cache; from here on all are at the same step."""
        model = self.model
        meet(model.team, place, model.device)
        if model.team.size > 1:
            self.sum_cost = model.team.measure(model.hidden_size, 512, model.dtype, model.device)
        model.reserve(max_model_len)
        spare = SPARE_BLOCKS if model.device.type == "cuda" else 0
        cache = KVCache(
            self.part.config, num_blocks + spare, self.plan.block_size, model.dtype, str(model.device), self.kv_format
        )
        self.launcher = open_launcher(
            model,
            cache,
            self.limits,
            max_model_len,
            can_capture=self.kernels != "torch" and model.team.ranks.pipeline == 1,
            logits=model.own_logits if model.team.ranks.is_first else None,
        )
        return cache


def load_part(
    config: EngineConfig,
    ranks: Ranks,
    *,
    progress: Progress | None = None,
    planned: Callable[[KVPlan], None] = lambda plan: None,
) -> LoadedPart:
    """Load what process `ranks.rank` has; raises `LoadError`. Nothing is computed, and nobody waited for."""
    check_alone(config)
    device = resolve_device(config.device, ranks.local_rank)
    use_device(device)
    check_can_meet(device)
    for option in config.float8_options:
        check_float8(device, option)
    threads = use_threads(config.threads or max(1, default_threads() // ranks.per_node))
    whole = ModelConfig.load(config.model)
    part, team = Part(whole, ranks), Team(ranks)
    dtype = resolve_dtype(config.dtype, whole, device)
    kv_format = resolve_kv_format(config.kv_dtype, dtype, str(device))
    kernels = open_device_kernels(device, dtype, config.kernels, batch_invariant=config.batch_invariant)
    quantizer = quantizer_for(config, part.config)
    with open_weights(config.model, whole, dtype, progress=progress, part=part) as weights:
        held_bytes = quantizer.plan.weight_bytes(part.config, dtype.itemsize) if quantizer else weights.total_bytes
        plan = _plan(config, part, kv_format, held_bytes, device, dtype)
        planned(_of_all(plan, ranks, device))
        place = DevicePlacing(device) if device.type == "cuda" else None
        with shortages(config, plan):
            target = LoadTarget(device, place, kernels, team)
            model = build_decoder(part.config, weights, quantizer, target=target)
        if place is not None:
            place.close()
        read_bytes = weights.read_bytes
    decoder = RankDecoder.of(model, team, part.config)
    name = "torch" if kernels is None else "triton"
    limits = config.step_limits(on_gpu=device.type == "cuda")
    meter = LoadMeter() if place is None else place.meter
    return LoadedPart(part, decoder, plan, kv_format, read_bytes, threads, name, limits, meter)


def check_alone(config: EngineConfig) -> None:
    """Raise `LoadError` for what only one process can do."""
    several = f"with {config.num_ranks} processes for a model"
    if config.adapter_places:
        raise LoadError(f"{several} there are no LoRA adapters; leave out --max-loras and --adapter, or merge them.")
    if config.speculate == "draft":
        raise LoadError(f"{several} there is no draft model; take --speculate ngram, or none.")
    if config.kernels == "native":
        raise LoadError(f"{several} there are no native kernels: they compute whole models; take --kernels auto.")
    if config.quantize is not None and (config.quantize_method or ("awq" if config.quantize == "int4" else "")) == AWQ:
        raise LoadError(
            f"{several} --quantize cannot use awq, which needs all of the model to calibrate on. Quantize first: "
            f"servery quantize MODEL OUT --scheme {config.quantize}, then serve OUT; or say --quantize-method round."
        )


def check_alike(dtype: torch.dtype, others: Sequence[Loaded]) -> None:
    """Raise `LoadError` unless all other processes compute in `dtype`, that of the first one."""
    name = dtype_name(dtype)
    for rank, other in enumerate(others, 1):
        if other.dtype != name:
            raise LoadError(
                f"process {rank} of the model computes in {other.dtype} and the first in {name}, because their devices are "
                "not alike; choose with --dtype what all of them have."
            )


def _plan(
    config: EngineConfig, part: Part, kv_format: KVFormat, weight_bytes: int, device: torch.device, dtype: torch.dtype
) -> KVPlan:
    on_gpu = device.type == "cuda"
    available = free_bytes(device) if on_gpu else available_bytes()
    if not on_gpu:  # the processes share it, and what they may take of it
        share = part.ranks.per_node
        available = None if available is None else available // share
        memory, kv = (None if each is None else each // share for each in (config.memory_bytes, config.kv_memory_bytes))
        config = dataclasses.replace(config, memory_bytes=memory, kv_memory_bytes=kv)
    return plan_kv(
        config,
        max_position=part.whole.max_position,
        kv_bytes_per_token=kv_format.bytes_per_token(part.config),
        weight_bytes=weight_bytes,
        available=available,
        reserve=_reserve(config, part, dtype) if on_gpu else None,
    )


def _reserve(config: EngineConfig, part: Part, dtype: torch.dtype) -> Reserve:
    alone = estimate_reserve(part.config, config.step_limits(on_gpu=True), dtype.itemsize)
    return dataclasses.replace(alone, process_bytes=alone.process_bytes + EXCHANGE_BYTES)


def _of_all(plan: KVPlan, ranks: Ranks, device: torch.device) -> KVPlan:
    """What all processes of a machine take of the same memory."""
    if device.type == "cuda":
        return plan
    count = ranks.per_node
    return dataclasses.replace(plan, weight_bytes=plan.weight_bytes * count, kv_bytes=plan.kv_bytes * count)
