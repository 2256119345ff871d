"""Which models are in memory: what a model that comes and goes tells of itself."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class ModelState(enum.Enum):
    """Where a model is. `SLEEPING` ones are woken by the next request, `UNLOADED` ones only where that is allowed.

    `FAILED` ones are not in memory because they could not be brought there the last time; they are tried again.
    """

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    RELEASING = "releasing"
    SLEEPING = "sleeping"
    FAILED = "failed"


class ReleasedBy(enum.Enum):
    """Why a model left memory."""

    ADMIN = "admin"
    KEEP_ALIVE = "keep_alive"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The state of a model, and how often it was loaded or woken, failed to be, and was released, by the reason.

    `load_s` is the time that all loads took; `error` why the last one failed, as anybody may read it.
    """

    state: ModelState
    loads: int
    failed_loads: int
    load_s: float
    error: str | None
    releases: Mapping[ReleasedBy, int]
