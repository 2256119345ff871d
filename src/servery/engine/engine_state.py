"""Where an engine is in its life, and what can happen to its process."""

import enum


class EngineState(enum.Enum):
    """Where the engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    ASLEEP = "asleep"
    STOPPED = "stopped"


class Failure(enum.Enum):
    """What became of a process that nobody had told to end."""

    DIED = "died"
    HUNG = "hung"
