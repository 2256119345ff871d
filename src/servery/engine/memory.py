"""What a model needs, and how many KV blocks to take of what it leaves. In bytes; nothing is a fraction."""

import math
from dataclasses import dataclass

from servery.byte_size import format_byte_size
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError, NotEnoughMemory

DEFAULT_KV_BYTES = 4 << 30
# What the process needs besides weights and KV: the interpreter, torch and the activations of a step.
RESERVE_BYTES = 512 << 20
_SMALL_KV_DTYPES = ("int8", "fp8")


@dataclass(frozen=True, slots=True)
class Reserve:
    """Memory beside weights, adapters and KV: of the process, on a GPU also of a step's activations and of its graphs.

    `is_device`: it is a GPU's, of which the KV cache may take all the rest.
    """

    process_bytes: int = RESERVE_BYTES
    workspace_bytes: int = 0
    graph_bytes: int = 0
    is_device: bool = False

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.process_bytes + self.workspace_bytes + self.graph_bytes

    @property
    def parts(self) -> list[str]:
        """What it is for, in words."""
        named = {
            "the process": self.process_bytes,
            "a step (--max-step-tokens)": self.workspace_bytes,
            "graphs (--max-running)": self.graph_bytes,
        }
        return [f"{format_byte_size(size)} for {name}" for name, size in named.items() if size]


@dataclass(frozen=True, slots=True)
class KVPlan:
    """The KV cache to allocate: `num_blocks` blocks of `block_size` positions, for contexts of `max_model_len`.

    `weight_bytes` and `adapter_bytes` are what is needed besides.
    """

    num_blocks: int
    block_size: int
    max_model_len: int
    kv_bytes: int
    weight_bytes: int = 0
    adapter_bytes: int = 0
    reserve: Reserve = Reserve()

    @property
    def needed_bytes(self) -> int:
        """What the engine takes in all once every block is in use."""
        return self.weight_bytes + self.adapter_bytes + self.kv_bytes + self.reserve.total_bytes

    @property
    def host_bytes(self) -> int:
        """What of it is memory of this machine, not of a GPU."""
        return RESERVE_BYTES if self.reserve.is_device else self.needed_bytes

    def __str__(self) -> str:
        parts = [
            f"{format_byte_size(self.weight_bytes)} for weights",
            f"{format_byte_size(self.kv_bytes)} for the KV cache",
            *([f"{format_byte_size(self.adapter_bytes)} for adapters"] if self.adapter_bytes else []),
            *self.reserve.parts,
        ]
        return f"{self.needed_bytes} bytes ({', '.join(parts)})"


def memory_left(config: EngineConfig, available: int | None, *, is_device: bool = False) -> int | None:
    """What an engine may take of the memory that is available; None if nobody knows and nothing was said.

    `memory_bytes` bounds what it takes of this machine's, not of a GPU's.
    """
    limits = [limit for limit in (available, None if is_device else config.memory_bytes) if limit is not None]
    return min(limits, default=None)


def plan_kv(
    config: EngineConfig,
    *,
    max_position: int,
    kv_bytes_per_token: int,
    weight_bytes: int,
    available: int | None,
    adapter_bytes: int = 0,
    reserve: Reserve | None = None,
) -> KVPlan:
    """Decide the KV cache's size before anything is allocated.

    Without `kv_memory_bytes` it is what `max_running` full contexts need, at most 4 GiB, at most half of what the
    weights leave; on a GPU up to all that weights and `reserve` leave. `adapter_bytes` are kept for LoRA adapters. Raises `NotEnoughMemory`, with the numbers and what to
    change, when the weights do not fit, when the asked KV memory does not fit, or when it cannot hold one context of
    `max_model_len`; `LoadError` for lengths that cannot be.
    """
    reserve = reserve or Reserve()
    max_model_len = _max_model_len(config, max_position)
    available = memory_left(config, available, is_device=reserve.is_device)
    left = None if available is None else available - weight_bytes - adapter_bytes - reserve.total_bytes
    if left is not None and left <= 0:
        needed_bytes = weight_bytes + adapter_bytes + reserve.total_bytes
        raise NotEnoughMemory(
            f"not enough memory: the weights need {format_byte_size(weight_bytes)} and the process "
            f"{format_byte_size(reserve.total_bytes)} besides{_for_adapters(adapter_bytes)}, {needed_bytes} bytes in all before "
            f"the first token is kept, but {_available(config, available or 0)}. Free memory, or {', or '.join(_smaller_weights(config))}.",
            needed_bytes,
        )
    if config.block_size > max_model_len:
        raise LoadError(
            f"--block-size is {config.block_size} and the context {max_model_len} tokens; a block larger than the "
            "context is never full. Lower --block-size: 16 serves most models."
        )
    block_bytes = kv_bytes_per_token * config.block_size
    budget = _kv_budget(config, max_model_len, block_bytes, left, is_device=reserve.is_device)
    num_blocks = budget // block_bytes
    needed = math.ceil(max_model_len / config.block_size)
    if num_blocks < needed:
        raise NotEnoughMemory(
            _too_small_for_a_context(config, max_model_len, needed * block_bytes, budget, block_bytes, left),
            weight_bytes + adapter_bytes + reserve.total_bytes + needed * block_bytes,
        )
    return KVPlan(
        num_blocks, config.block_size, max_model_len, num_blocks * block_bytes, weight_bytes, adapter_bytes, reserve
    )


def advice(config: EngineConfig) -> str:
    """Which flags make an engine take less memory, as the end of a sentence."""
    kv = [] if config.kv_dtype in _SMALL_KV_DTYPES else ["take --kv-dtype int8"]
    draft = ["leave --draft-model out"] if config.draft_model is not None else []
    return ", or ".join(["lower --kv-memory or --max-model-len", *kv, *draft, *_smaller_weights(config)])


def _smaller_weights(config: EngineConfig) -> list[str]:
    schemes = {None: "int8 or int4", "int8": "int4", "fp8": "int4"}.get(config.quantize)
    rounded = [f"take --quantize {schemes} if the weights are stored unquantized"] if schemes else []
    return [*rounded, "serve a smaller model"]


def _available(config: EngineConfig, available: int) -> str:
    by_limit = " (--memory)" if available == config.memory_bytes else ""
    return f"{format_byte_size(available)} are available{by_limit}"


def _too_small_for_a_context(
    config: EngineConfig, max_model_len: int, needed_bytes: int, budget: int, block_bytes: int, left: int | None
) -> str:
    fits = budget // block_bytes * config.block_size
    changes = [f"lower --max-model-len{f' to {fits}' if fits else ''}"]
    if left is None or needed_bytes <= left:
        changes.insert(0, f"raise --kv-memory to {needed_bytes} bytes")
    else:
        changes.append(f"free {needed_bytes - left} bytes of memory")
    if config.kv_dtype not in _SMALL_KV_DTYPES:
        changes.append("take --kv-dtype int8")
    text = ", or ".join(changes)
    return (
        f"not enough KV memory: one context of {max_model_len} tokens needs {format_byte_size(needed_bytes)}, but "
        f"{format_byte_size(budget)} hold {fits}. {text[0].upper()}{text[1:]}."
    )


def _for_adapters(adapter_bytes: int) -> str:
    return (
        f", {format_byte_size(adapter_bytes)} are for adapters (--max-loras, --max-lora-rank)" if adapter_bytes else ""
    )


def _max_model_len(config: EngineConfig, max_position: int) -> int:
    if config.max_model_len is None:
        return max_position
    if config.max_model_len > max_position:
        raise LoadError(
            f"--max-model-len is {config.max_model_len}, but the model was made for {max_position} positions "
            "(max_position_embeddings in its config.json). Lower it."
        )
    return config.max_model_len


def _kv_budget(config: EngineConfig, max_model_len: int, block_bytes: int, left: int | None, *, is_device: bool) -> int:
    if config.kv_memory_bytes is not None:
        if left is not None and config.kv_memory_bytes > left:
            raise NotEnoughMemory(
                f"not enough memory: --kv-memory asks for {format_byte_size(config.kv_memory_bytes)}, but beside the weights "
                f"{format_byte_size(left)} are available. Lower --kv-memory to {left} bytes.",
                config.kv_memory_bytes,
            )
        return config.kv_memory_bytes
    max_running = config.step_limits(on_gpu=is_device).max_running
    wanted = max_running * math.ceil(max_model_len / config.block_size) * block_bytes
    if is_device:
        return wanted if left is None else min(wanted, left)
    return min(wanted, DEFAULT_KV_BYTES, left // 2 if left is not None else DEFAULT_KV_BYTES)
