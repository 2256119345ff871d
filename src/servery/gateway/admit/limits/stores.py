"""The store of limits that a configuration asks for."""

import time
from collections.abc import Callable

from servery.config.types import LimitsConfig, OnFailure
from servery.gateway.admit.limits.guard import GuardedLimits, StoreFigures
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.admit.limits.meter import LimitStore
from servery.gateway.admit.limits.shared import SharedLimits


def limit_store(config: LimitsConfig, figures: StoreFigures, clock: Callable[[], float] = time.monotonic) -> LimitStore:
    """This process's memory, or a Redis with what is to be done without it; raises `ModuleNotFoundError` (redis)."""
    if config.redis is None:
        return MemoryLimits(clock)
    local = MemoryLimits(clock) if config.on_failure is OnFailure.LOCAL else None
    return GuardedLimits(SharedLimits(config.redis.reveal(), config.deadline_s), local, figures)
