"""A batch as a device computes it: what kernels read lies there, and nothing has to be read back to plan a step."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.batch import Batch, Extent
from servery.engine.packed_arrays import PackedArrays


class BatchShape(NamedTuple):
    """What is known of a batch without looking at its arrays: the longest row, in tokens and in positions that it sees."""

    max_query_tokens: int
    longest_context: int


class DeviceBatch(Batch):
    """A `Batch` on a device. What `Batch` has as arrays of the host are tensors here.

    input_ids, positions, slots int64 [T]; `block_tables` int32 [B, W], where behind a row's own blocks anything may
    stand; `context_lens` int32 [B], the positions that a row's last token sees, itself included; `query_starts` int32
    [B + 1], where each row's tokens begin, and the end. `max_query_tokens` is the longest row's number of tokens.
    `longest_context` is a bound: in a graph that is computed again and again it is that of all its steps.
    """

    __slots__ = ("_arrays", "_block_tables", "context_lens", "max_query_tokens", "num_rows", "num_tokens")

    query_starts: Tensor

    def __init__(self, tensors: Sequence[Tensor], shape: BatchShape, arrays: PackedArrays | None = None) -> None:
        """`tensors` are those of `pack`, in its order; `arrays` the same on the host, for backends that plan there."""
        self._arrays = arrays
        self._extents = ()
        self.input_ids, self.positions, self.slots = tensors[0], tensors[1], tensors[2]
        self.context_lens, self.query_starts, self._block_tables = tensors[3], tensors[4], tensors[5]
        self.max_query_tokens, self.longest_context = shape
        self.num_tokens, self.num_rows = len(self.input_ids), len(self.context_lens)

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "DeviceBatch":
        """Copy a batch to a device; without waiting for it."""
        if isinstance(batch, DeviceBatch):
            return batch
        arrays = PackedArrays.of(pack(batch), pinned=device.type == "cuda")
        return cls(arrays.on(device), shape_of(batch), arrays)

    @property
    def block_tables(self) -> Tensor:
        """int32 [B, W]."""
        return self._block_tables

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The facts about rows as plain integers."""
        if not self._extents:
            if self._arrays is None:
                raise ValueError(
                    "this batch is computed again and again: what its rows are is known on the device only"
                )
            tables, lens, starts = (self._arrays.array(number).tolist() for number in (-1, 3, 4))
            counts = [after - at for at, after in pairwise(starts)]
            rows = zip(starts, counts, lens, tables, strict=False)
            self._extents = tuple([Extent(at, count, end - count, table) for at, count, end, table in rows])
        return self._extents


def pack(batch: Batch) -> list[NDArray[np.generic]]:
    """The arrays of a batch, as `DeviceBatch` takes them: the block tables last."""
    lens = batch.starts + batch.counts
    starts = np.append(batch.query_starts, len(batch.input_ids))
    return [
        batch.input_ids.numpy(),
        batch.positions.numpy(),
        batch.slots.numpy(),
        lens.astype(np.int32),
        starts.astype(np.int32),
        batch.block_tables.numpy().astype(np.int32),
    ]


def shape_of(batch: Batch) -> BatchShape:
    """What has to be known of a batch beside its arrays."""
    return BatchShape(int(batch.counts.max()), batch.longest_context)
