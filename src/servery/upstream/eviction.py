"""Who makes room for a model that does not fit. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A model that takes memory: so many bytes, used last at `last_used_s` (monotonic).

    A busy one has requests under way or waiting for it, or is being loaded or released.
    """

    name: str
    memory_bytes: int
    last_used_s: float
    is_asleep: bool
    is_busy: bool


def next_to_go(holders: Iterable[Holder]) -> Holder | None:
    """The one that makes room first: asleep before awake, then the one used longest ago; a busy one never does."""
    idle = [holder for holder in holders if not holder.is_busy and holder.memory_bytes]
    return min(idle, key=lambda holder: (not holder.is_asleep, holder.last_used_s, holder.name), default=None)
