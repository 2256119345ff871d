"""Memory that the system refuses although it was planned: the same error, with the same figures, as a plan that fails."""

import contextlib
import errno
import re
from collections.abc import Iterator

from servery.byte_size import format_byte_size
from servery.engine.available_memory import available_bytes
from servery.engine.config import EngineConfig
from servery.engine.errors import NotEnoughMemory
from servery.engine.memory import KVPlan, advice

# How PyTorch's allocators of the CPU and of CUDA, and the system itself, say it.
_REFUSALS = re.compile(r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory", re.IGNORECASE)
_UNITS = {
    "bytes": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
# What a GPU's KV cache is to be smaller by, at least, where a step found no memory.
MARGIN_BYTES = 1 << 30
_ASKED = re.compile(r"tried to allocate ([\d.]+ ?(?:bytes|[KMGT]i?B))", re.IGNORECASE)


@contextlib.contextmanager
def shortages(config: EngineConfig, plan: KVPlan) -> Iterator[None]:
    """Inside, memory that is refused is `NotEnoughMemory`: what was planned, what was refused, and which flags help."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_shortage(error):
            raise
        raise NotEnoughMemory(_refused(config, plan, str(error)), plan.needed_bytes) from error


def is_shortage(error: Exception) -> bool:
    """Whether it says that there is no memory to be had."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or _REFUSALS.search(str(error)) is not None


def step_advice(error: Exception, *, kv_bytes: int, max_step_tokens: int) -> str:
    """What to change where a step found no memory on a GPU, as a further sentence; empty for other errors."""
    if not is_shortage(error):
        return ""
    asked = _ASKED.search(str(error))
    less = max(_bytes_of(asked[1]) if asked else 0, MARGIN_BYTES)
    return (
        f" The step took more of the GPU than was measured at start. Lower --kv-memory to {max(kv_bytes - less, 0)} bytes, "
        f"or --max-step-tokens below {max_step_tokens}."
    )


def _bytes_of(text: str) -> int:
    """Of a size as allocators tell it, such as 1.50 GiB."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", text).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNITS[unit])


def killed(config: EngineConfig, needed: str) -> str:
    """What to say of a process that was killed while it loaded a model that needs so much."""
    return (
        "the engine process was killed while it loaded the model; when the system runs out of memory, that is what it "
        f"does. The model needs {needed}. Free memory, or {advice(config)}."
    )


def _refused(config: EngineConfig, plan: KVPlan, said: str) -> str:
    asked = _ASKED.search(said)
    refused = f"{asked[1]} of it" if asked else "a part of it"
    available = available_bytes()
    now = "" if available is None else f"; {format_byte_size(available)} are available by its own account"
    return (
        f"not enough memory: the model needs {plan}, and the system refused {refused}{now}. If there should be more, look "
        f"at the limits that it was started with (`ulimit -v`). Else free memory, or {advice(config)}."
    )
