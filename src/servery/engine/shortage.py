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
