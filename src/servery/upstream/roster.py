"""The models of one server that share its memory: one is loaded at a time, and others make room for it."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Protocol

from servery.byte_size import format_byte_size
from servery.engine.errors import NotEnoughMemory
from servery.engine.memory import RESERVE_BYTES
from servery.upstream.eviction import Holder, next_to_go

log = logging.getLogger(__name__)


class Member(Protocol):
    """A model that can be brought into memory and taken out of it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def holder(self) -> Holder:
        """What it takes now, and whether it can go."""
        ...

    async def occupy(self, memory_bytes: int | None) -> None:
        """Come into memory, of which it may take so much; raises `EngineError`, `NotEnoughMemory` if it does not fit."""

    async def make_room(self) -> None:
        """Go out of memory; only asked of one that is not busy."""


class Roster:
    """`memory_bytes` is what all members may take together; None: as much as the machine has.

    With `makes_room` those that are idle go for one that would not fit.
    """

    def __init__(self, memory_bytes: int | None = None, *, makes_room: bool = True) -> None:
        self._memory_bytes = memory_bytes
        self._makes_room = makes_room
        self._members: dict[str, Member] = {}
        self._loading = asyncio.Lock()

    def add(self, member: Member) -> None:
        """Take part."""
        self._members[member.name] = member

    def remove(self, member: Member) -> None:
        """Take no part any more."""
        if self._members.get(member.name) is member:  # else another one has its name now
            del self._members[member.name]

    async def admit(self, member: Member) -> None:
        """Bring a member into memory, others out of it if that is needed and allowed and they are idle.

        Only one comes at a time: how much it may take is known when those before it have theirs. Raises what the
        member does when it cannot be loaded, or when nobody is left to make room.
        """
        async with self._loading:
            while True:
                try:
                    await member.occupy(self._left(member))
                except NotEnoughMemory:
                    going = next_to_go(other.holder() for other in self._others(member))
                    if going is None or not self._makes_room:
                        raise
                    log.info("%s makes room for %s: %d bytes", going.name, member.name, going.memory_bytes)
                    await self._members[going.name].make_room()
                else:
                    return

    def _left(self, member: Member) -> int | None:
        """What is left of the memory for one more; raises `NotEnoughMemory` if that is not even a process."""
        if self._memory_bytes is None:
            return None
        taken = {other.name: other.holder().memory_bytes for other in self._others(member)}
        left = self._memory_bytes - sum(taken.values())
        if left > RESERVE_BYTES:
            return left
        takers = ", ".join(f"{name} {format_byte_size(size)}" for name, size in taken.items() if size) or "nobody"
        raise NotEnoughMemory(
            f"not enough memory: of the {format_byte_size(self._memory_bytes)} for all models (--memory) "
            f"{format_byte_size(max(0, left))} are left, and a process alone takes {format_byte_size(RESERVE_BYTES)}; in "
            f"memory are: {takers}. Raise --memory, or unload another model.",
            RESERVE_BYTES,
        )

    def _others(self, member: Member) -> Iterator[Member]:
        return (other for other in self._members.values() if other is not member)
