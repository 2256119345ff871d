"""Several arrays in one buffer, so that they go to a device, or to another process, in one copy."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What every array begins at a multiple of: device memory is read in sectors of 32 bytes, by vectors of 16.
ALIGNMENT = 16


class Place(NamedTuple):
    """Where an array lies in the buffer: from byte `start` on, of numpy type `dtype` and `shape`."""

    start: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class PackedArrays:
    """Arrays by number, in a buffer of bytes in this process's memory; pinned, if it is to go to a GPU."""

    __slots__ = ("buffer", "places")

    def __init__(self, buffer: Tensor, places: Sequence[Place]) -> None:
        self.buffer = buffer
        self.places = tuple(places)

    @classmethod
    def of(cls, arrays: Sequence[NDArray[np.generic]], *, pinned: bool = False) -> "PackedArrays":
        """Copy `arrays` into a new buffer. Pinned memory comes from torch's cache of it, which waits for copies of before."""
        places = places_of([(array.dtype.str, array.shape) for array in arrays])
        buffer = torch.empty(_size(places), dtype=torch.uint8, pin_memory=pinned)
        packed = cls(buffer, places)
        for number, array in enumerate(arrays):
            packed.array(number)[...] = array
        return packed

    def array(self, number: int) -> NDArray[np.generic]:
        """One array, in the buffer itself."""
        start, dtype, shape = place = self.places[number]
        return self.buffer.numpy()[start : start + place.nbytes].view(dtype).reshape(shape)

    def on(self, device: torch.device) -> list[Tensor]:
        """All arrays on a device: one copy, which is queued behind what was asked of the device before, then views."""
        return views(self.buffer.to(device, non_blocking=True), self.places)


def places_of(kinds: Sequence[tuple[str, tuple[int, ...]]]) -> list[Place]:
    """Where arrays of (dtype, shape) lie, one after the other."""
    places, start = [], 0
    for dtype, shape in kinds:
        places.append(Place(start, dtype, shape))
        start += -(-places[-1].nbytes // ALIGNMENT) * ALIGNMENT
    return places


def views(buffer: Tensor, places: Sequence[Place]) -> list[Tensor]:
    """The arrays in a buffer of bytes on any device, as tensors that share its memory."""
    return [_view(buffer, place) for place in places]


def _view(buffer: Tensor, place: Place) -> Tensor:
    kind = torch.from_numpy(np.empty(0, place.dtype)).dtype
    return buffer[place.start : place.start + place.nbytes].view(kind).view(place.shape)


def _size(places: Sequence[Place]) -> int:
    last = places[-1]
    return -(-(last.start + last.nbytes) // ALIGNMENT) * ALIGNMENT
