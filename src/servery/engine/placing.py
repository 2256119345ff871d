"""Weights on their way from a mapped file to where they are computed with.

To a GPU they go in pieces, through a ring of pinned buffers: while one piece is on the bus, others are copied out of
the page cache by threads of their own, and the disk reads what comes next. The device copies on a stream of its own.
Types are changed on the device. Who says in time what it will ask for does not wait between one tensor and the next.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

PIECE_BYTES = 16 << 20
RING_PIECES = 12
COPY_THREADS = 6


class Placing(Protocol):
    """Where weights go; called as `weights.Place`."""

    def __call__(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of its own with the same values, as `dtype`."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A placing that can begin before it is asked."""

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """These will be asked for soon, in about this order."""
        ...


@dataclass(slots=True)
class LoadMeter:
    """What went over a link: bytes, and the seconds from the first to the last."""

    nbytes: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_s(self) -> float:
        """0 before anything was loaded."""
        return self.nbytes / self.seconds if self.seconds else 0.0


def pinned(nbytes: int) -> Tensor:
    """Memory that a device can read by itself."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


class _Slot:
    """A pinned buffer, and when the device has done with what is in it."""

    def __init__(self) -> None:
        self.memory = pinned(PIECE_BYTES)
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]


class _OnItsWay(NamedTuple):
    """A tensor that is being moved: where from, where to, and its pieces, each of which ends when it is in a buffer."""

    tensor: Tensor
    there: Tensor
    pieces: "list[Future[None]]"


class DevicePlacing:
    """Copies tensors to a GPU. `close` it when all are there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._free: SimpleQueue[_Slot] = SimpleQueue()
        for _ in range(RING_PIECES):
            self._free.put(_Slot())
        self._threads = ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="weights")
        self._on_their_way: dict[object, _OnItsWay] = {}
        self._started: float | None = None
        self.meter = LoadMeter()

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Begin to move what will be asked for soon; the device has to have room for it."""
        for tensor in tensors:
            key = _key_of(tensor)
            if tensor.device.type == "cpu" and key not in self._on_their_way:
                self._on_their_way[key] = self._begin(tensor)

    def __call__(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor on the device; what is computed with it from now on waits for the copy, the host does only for its own part."""
        if tensor.device.type == "cuda":
            return tensor.to(dtype)
        begun = self._on_their_way.pop(_key_of(tensor), None) or self._begin(tensor)
        for piece in begun.pieces:
            piece.result()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self.meter.nbytes += tensor.nbytes
        return begun.there.to(dtype)

    def close(self) -> None:
        """Wait until everything is there; what was expected and not asked for is dropped."""
        for begun in self._on_their_way.values():
            for piece in begun.pieces:
                piece.result()
        self._stream.synchronize()
        self._on_their_way.clear()
        self.meter.seconds = 0.0 if self._started is None else time.perf_counter() - self._started
        self._threads.shutdown()

    def _begin(self, tensor: Tensor) -> _OnItsWay:
        self._started = self._started or time.perf_counter()
        read_ahead(tensor)
        there = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        self._stream.wait_stream(
            torch.cuda.current_stream(self._device)
        )  # `there` may have been somebody else's memory
        rows, target = _rows_of(tensor), _rows_of(there)
        pieces = pieces_of(len(rows), rows.nbytes // max(1, len(rows)), PIECE_BYTES)
        return _OnItsWay(tensor, there, [self._threads.submit(self._move, rows[each], target[each]) for each in pieces])

    def _move(self, rows: Tensor, target: Tensor) -> None:
        slot = self._free.get()
        try:
            slot.done.synchronize()
            if rows.nbytes <= PIECE_BYTES:
                piece = slot.memory[: rows.nbytes].view(rows.dtype).view(rows.shape)
                piece.copy_(rows)
                with torch.cuda.stream(self._stream):
                    target.copy_(piece, non_blocking=True)
                    slot.done.record(self._stream)
            else:  # a single row that is longer than a buffer
                target.copy_(rows)
        finally:
            self._free.put(slot)


def _key_of(tensor: Tensor) -> object:
    """The same for the same place in a mapped file, seen in the same way."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def pieces_of(num_rows: int, row_bytes: int, piece_bytes: int) -> Iterator[slice]:
    """Rows in pieces of at most `piece_bytes`, or of one row where that is longer."""
    step = max(1, piece_bytes // max(1, row_bytes))
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def read_ahead(tensor: Tensor) -> None:
    """Let the system read the file behind a mapped tensor before it is looked at; without effect on other memory."""
    if not hasattr(mmap, "MADV_WILLNEED") or not tensor.nbytes or os.name != "posix":
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    nbytes = (last + 1) * tensor.itemsize
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(tensor.data_ptr() + nbytes - start), mmap.MADV_WILLNEED)


def link_bytes_per_s(device: torch.device, nbytes: int = 256 << 20) -> float:
    """What the link to a GPU moves at most, from pinned memory: what loading is compared with."""
    here, there = pinned(nbytes), torch.empty(nbytes, dtype=torch.uint8, device=device)
    best = float("inf")
    for _ in range(4):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        there.copy_(here, non_blocking=True)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return nbytes / best


def _rows_of(tensor: Tensor) -> Tensor:
    """The same values with rows that can be copied one by one; a vector is as many of them as it has values."""
    return tensor.reshape(1) if tensor.dim() == 0 else tensor
