"""CUDA graphs of decoding: a step of one token for each row is one launch, whatever the number of its kernels.

A graph is captured for a number of rows when a step first needs it; others are padded to the next that there is. All
share one pool of memory, since they never run at the same time. Attention is launched for the longest context that a
graph is for, whatever a step's are: so there are graphs for short contexts and for long ones. A graph reads its
arguments at fixed addresses: a step's arrays are copied there before; of block tables, which have room for the longest
context, only the columns that a step's rows have.

What pads a step belongs to no sequence: its keys and values go to a block of the cache that is never given out.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.capture import Captured
from servery.engine.device_rows import pack_rows
from servery.engine.graph_buckets import context_bucket
from servery.engine.kv import KVCache
from servery.engine.launch import TABLES, Forwarded, GraphStats, Launcher, LaunchShape, padded
from servery.engine.packed_arrays import PackedArrays, views

log = logging.getLogger(__name__)

# A block of the KV cache that belongs to nobody: what is computed for padding is written there.
SPARE_BLOCKS = 1


class _Key(NamedTuple):
    rows: int
    context: int
    is_limited: bool
    chooses_apart: bool


class _Graph(NamedTuple):
    captured: Captured
    arrays: Tensor  # bytes of all but the tables
    tables: Tensor
    forwarded: list[Forwarded]  # where the step's hidden states lie


class DecodeGraphs:
    """Captures and replays the steps of a `Launcher`."""

    def __init__(
        self, launcher: Launcher, cache: KVCache, max_context: int, capture: Callable[[Callable[[], None]], Captured]
    ) -> None:
        """`cache` has `SPARE_BLOCKS` blocks more than sequences are given."""
        self._launcher = launcher
        self._block_size = cache.block_size
        self._spare = spare_block(cache)
        self._max_context = max_context
        self._device = launcher.last.device
        self._capture = capture
        self._graphs: dict[_Key, _Graph] = {}
        self._is_off = False
        self._stats = GraphStats()

    @property
    def stats(self) -> GraphStats:
        """What was captured so far."""
        return self._stats

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture the smallest step, so that the first request need not wait until kernels are compiled."""
        self._try_capture(_Key(1, context_bucket(1, self._max_context), is_limited=False, chooses_apart=False))

    def run(self, arrays: PackedArrays, shape: LaunchShape) -> Forwarded | None:
        """Run a step of a bucket, capturing it if it is the first; None if it cannot be, which is logged once."""
        assert shape.bucket is not None
        context, apart = context_bucket(shape.longest_context, self._max_context), shape.chooses_apart
        # How tokens are chosen apart is no part of a graph.
        key = _Key(shape.bucket, context, shape.is_limited and not apart, apart)
        if key not in self._graphs and not self._is_off:
            self._try_capture(key)
        graph = self._graphs.get(key)
        if graph is None:
            return None
        _feed(graph.arrays, graph.tables, arrays)
        graph.captured.replay()
        return graph.forwarded[0]

    def _try_capture(self, key: _Key) -> None:
        size = key.rows
        kept = self._launcher.last.clone()  # what warming up writes there is nobody's token
        started = time.perf_counter()
        try:
            graph = self._made(key)
        except torch.cuda.OutOfMemoryError as error:
            self._is_off = True
            log.warning(
                "no memory for a graph of %d rows (%s): steps of other sizes than those captured are launched kernel by "
                "kernel, which is slower. Lower --max-running, or --kv-memory by 1GiB",
                size,
                error,
            )
            return
        except RuntimeError as error:
            self._is_off = True
            log.warning("a step of %d rows cannot be captured; it is launched kernel by kernel: %s", size, error)
            return
        finally:
            self._launcher.last.copy_(kept)
        self._graphs[key] = graph
        taken = graph.captured.nbytes + graph.arrays.nbytes + graph.tables.nbytes
        stats, spent_s = self._stats, time.perf_counter() - started
        self._stats = GraphStats(stats.graphs + 1, stats.nbytes + taken, stats.seconds + spent_s)
        log.info("captured decoding %d rows of up to %d positions in %.2f s, %d bytes", *key[:2], spent_s, taken)

    def _made(self, key: _Key) -> _Graph:
        """A graph that was captured with a step of which no row is anybody's."""
        size, context, is_limited, apart = key
        nobody = PackedArrays.of(padded(_empty_step(), size, self._spare, self._block_size), pinned=self._is_on_gpu)
        arrays = torch.zeros(nobody.places[TABLES].start, dtype=torch.uint8, device=self._device)
        width = -(-context // self._block_size)
        tables = torch.full((size, width), self._spare, dtype=torch.int32, device=self._device)
        tensors = [*views(arrays, nobody.places[:TABLES]), tables]
        shape = LaunchShape(1, context, size, is_limited)
        _feed(arrays, tables, nobody)
        forwarded: list[Forwarded] = []

        def step() -> None:
            hidden = self._launcher.forward(tensors, shape)
            forwarded[:] = [Forwarded(hidden, tensors)]
            if not apart:
                self._launcher.choose(hidden, tensors, shape)

        return _Graph(self._capture(step), arrays, tables, forwarded)

    @property
    def _is_on_gpu(self) -> bool:
        return self._device.type == "cuda"


def spare_block(cache: KVCache) -> int:
    """The block that belongs to nobody."""
    return cache.num_blocks - SPARE_BLOCKS


def _feed(there: Tensor, tables: Tensor, arrays: PackedArrays) -> None:
    """Copy a step's arrays to where a graph reads them, without waiting."""
    of_tables = arrays.places[TABLES]
    there.copy_(arrays.buffer[: of_tables.start], non_blocking=True)
    columns = views(arrays.buffer, [of_tables])[0].to(tables.device, non_blocking=True)
    tables[:, : columns.shape[1]].copy_(columns)


def _empty_step() -> list[NDArray[np.generic]]:
    """The arrays of a step without rows."""
    whole = np.zeros(0, np.int64)
    lens = np.zeros(0, np.int32)
    return [whole, whole, whole, lens, lens, whole, whole, *pack_rows([]), np.zeros((0, 1), np.int32)]
