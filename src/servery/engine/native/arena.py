"""Memory for packed weights: fresh from the system, one weight after the other, on huge pages where there are some.

Memory that torch gives may have been used and given back before: it lies on small pages then, and stays there, and a
step that reads all of it spends a tenth of its time on where they are.
"""

import mmap
from collections.abc import Callable

import torch
from torch import Tensor

HUGE_PAGE_BYTES = 2 << 20
# What is asked of the system at a time. Pages that nobody writes to take no memory.
_PIECE_BYTES = 64 << 20
_LINE_BYTES = 64


class Arena:
    """`advise(address, size)` asks for huge pages. A piece goes back to the system with the last tensor in it."""

    def __init__(self, advise: Callable[[int, int], None]) -> None:
        self._advise = advise
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, size: int) -> Tensor:
        """`size` bytes that begin with a line of the cache. Raises `MemoryError` where the system gives none."""
        if self._used + size > len(self._piece):
            self._piece, self._used = self._mapped(max(size, _PIECE_BYTES)), 0
        taken = self._piece[self._used : self._used + size]
        self._used += -(-size // _LINE_BYTES) * _LINE_BYTES
        return taken

    def _mapped(self, size: int) -> Tensor:
        try:
            memory = mmap.mmap(-1, size + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"tried to allocate {size} bytes for packed weights: {error}") from error
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        aligned = whole[-whole.data_ptr() % HUGE_PAGE_BYTES :][:size]
        self._advise(aligned.data_ptr(), size)
        return aligned
