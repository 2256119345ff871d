"""How a server interrupts its engine's work in the background: a count, in memory that both share, which it raises.

Memory and not a message: whoever computes can look at it between two products for less than either costs, also from
native code.
"""

import mmap
from ctypes import addressof, c_int64

# Where the count is in the memory: the cache lines before it are written by the loop before every step.
_OFFSET = 1024


class Interrupted(Exception):
    """A step was left, because somebody came who should not wait for its end; nothing of it counts."""


class Doorbell:
    """Each of the two processes opens the same file descriptor, -1 for a bell inside one process."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        self._rings = c_int64.from_buffer(self._memory, _OFFSET)

    @property
    def rings(self) -> int:
        """How often it was rung."""
        return self._rings.value

    @property
    def address(self) -> int:
        """Where the count is, a signed number of 64 bits; as long as the bell is not closed."""
        return addressof(self._rings)

    def ring(self) -> None:
        """Somebody has come. Only one thread of one process rings."""
        self._rings.value += 1

    def close(self) -> None:
        """Let go of the memory; the other end keeps it. Safe to call twice; nobody hears a ring after it."""
        self._rings = c_int64()  # a memory that something is made of cannot be closed
        self._memory.close()


class Interruption:
    """What a step in the background looks at: whether the bell was rung since it had been rung `heard` times."""

    __slots__ = ("bell", "heard")

    def __init__(self, bell: Doorbell, heard: int) -> None:
        self.bell = bell
        self.heard = heard

    def check(self) -> None:
        """Raise `Interrupted` if it was."""
        if self.bell.rings != self.heard:
            raise Interrupted
