"""How much memory there is, and how many KV blocks to take of it. Everything is in bytes; nothing is a fraction."""

import math
from dataclasses import dataclass
from pathlib import Path

from servery.byte_size import format_byte_size
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError

DEFAULT_KV_BYTES = 4 << 30
# What the process needs besides weights and KV: the interpreter, torch and the activations of a step.
RESERVE_BYTES = 512 << 20

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class KVPlan:
    """The KV cache to allocate: `num_blocks` blocks of `block_size` positions, for contexts of `max_model_len`."""

    num_blocks: int
    block_size: int
    max_model_len: int
    kv_bytes: int


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Memory a new process may take: the smaller of what the system has available and what the cgroup leaves.

    None where the system does not tell (not Linux).
    """
    limits = [value for value in (_meminfo_available(meminfo), _cgroup_left(cgroup)) if value is not None]
    return min(limits, default=None)


def _meminfo_available(meminfo: Path) -> int | None:
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_left(cgroup: Path) -> int | None:
    limit_file, used_file = cgroup / "memory.max", cgroup / "memory.current"
    if not (limit_file.exists() and used_file.exists()):
        return None
    limit = limit_file.read_text().strip()
    if limit == "max":
        return None
    return max(0, int(limit) - int(used_file.read_text()) + _idle_page_cache(cgroup))


def _idle_page_cache(cgroup: Path) -> int:
    """Files read a while ago count as used, but are dropped when somebody needs the memory (as `MemAvailable` knows)."""
    stat = cgroup / "memory.stat"
    if stat.exists():
        for line in stat.read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0


def plan_kv(
    config: EngineConfig,
    *,
    max_position: int,
    kv_bytes_per_token: int,
    weight_bytes: int,
    available: int | None,
    adapter_bytes: int = 0,
) -> KVPlan:
    """Decide the KV cache's size before anything is allocated.

    Without `kv_memory_bytes` it is what `max_running` full contexts need, at most 4 GiB, at most half of what the
    weights leave. `adapter_bytes` are kept for LoRA adapters. Raises `LoadError`, with the numbers and what to change,
    when the weights do not fit, when the asked KV memory does not fit, or when it cannot hold one context of
    `max_model_len`.
    """
    max_model_len = _max_model_len(config, max_position)
    left = None if available is None else available - weight_bytes - adapter_bytes - RESERVE_BYTES
    if left is not None and left <= 0:
        raise LoadError(
            f"not enough memory: the weights need {format_byte_size(weight_bytes)} and the process "
            f"{format_byte_size(RESERVE_BYTES)} besides{_for_adapters(adapter_bytes)}, but "
            f"{format_byte_size(available or 0)} are available. Free memory, or serve a smaller model."
        )
    if config.block_size > max_model_len:
        raise LoadError(
            f"--block-size is {config.block_size} and the context {max_model_len} tokens; a block larger than the "
            "context is never full. Lower --block-size: 16 serves most models."
        )
    block_bytes = kv_bytes_per_token * config.block_size
    budget = _kv_budget(config, max_model_len, block_bytes, left)
    num_blocks = budget // block_bytes
    needed = math.ceil(max_model_len / config.block_size)
    if num_blocks < needed:
        fits, needed_bytes = num_blocks * config.block_size, needed * block_bytes
        raise LoadError(
            f"not enough KV memory: one context of {max_model_len} tokens needs {format_byte_size(needed_bytes)}, but "
            f"{format_byte_size(budget)} hold {fits}. Raise --kv-memory to {needed_bytes} bytes, or lower "
            f"--max-model-len{f' to {fits}' if fits else ''}."
        )
    return KVPlan(num_blocks, config.block_size, max_model_len, num_blocks * block_bytes)


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


def _kv_budget(config: EngineConfig, max_model_len: int, block_bytes: int, left: int | None) -> int:
    if config.kv_memory_bytes is not None:
        if left is not None and config.kv_memory_bytes > left:
            raise LoadError(
                f"not enough memory: --kv-memory asks for {format_byte_size(config.kv_memory_bytes)}, but beside the weights "
                f"{format_byte_size(left)} are available. Lower --kv-memory."
            )
        return config.kv_memory_bytes
    wanted = config.max_running * math.ceil(max_model_len / config.block_size) * block_bytes
    return min(wanted, DEFAULT_KV_BYTES, left // 2 if left is not None else DEFAULT_KV_BYTES)
