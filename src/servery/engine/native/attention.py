"""Attention over the paged cache by the native kernel: a backend of the decoder, for one step's rows of any length."""

from collections.abc import Sequence
from ctypes import byref

import numpy as np
import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend, AttentionPlan
from servery.engine.batch import Batch
from servery.engine.kv import KVCache
from servery.engine.native.library import (
    BF16,
    F32,
    I8,
    AttentionStruct,
    CacheStruct,
    ExtentStruct,
    NativeContext,
    rows_struct,
)

_TYPES = {torch.float32: F32, torch.bfloat16: BF16, torch.int8: I8}
# Heads are read in whole vectors, of which these are the widest.
_VECTOR = 16


class NativeAttention:
    """Grouped-query attention for keys and values of float32, bfloat16 or int8; others are for `fallback`."""

    def __init__(
        self,
        context: NativeContext,
        config: ModelConfig,
        sinks: Sequence[Tensor | None] | None,
        fallback: AttentionBackend,
    ) -> None:
        """`sinks` has an entry for each layer, [heads] or None."""
        self._context = context
        self._heads = config.num_heads
        self._windows = [window or 0 for window in config.windows]
        self._scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self._soft_cap = config.attention_soft_cap or 0.0
        by_layer = [None] * config.num_layers if sinks is None else sinks
        self._sinks = [None if each is None else each.float().contiguous() for each in by_layer]
        self._fallback = fallback
        self._structs: tuple[KVCache, list[AttentionStruct]] | None = None

    @staticmethod
    def takes(config: ModelConfig) -> bool:
        """Whether there is a kernel for a model's attention: latent attention has one plane in place of two."""
        return config.kv_planes == 2 and config.head_dim % _VECTOR == 0

    def plan(self, batch: Batch, cache: KVCache) -> AttentionPlan:
        """Say where the rows lie; the rest is the kernel's."""
        if not self.reads(cache):
            return self._fallback.plan(batch, cache)
        return NativePlan(self._context, self.layers(cache), batch)

    @staticmethod
    def reads(cache: KVCache) -> bool:
        """Whether there is a kernel for the cache's format."""
        return cache.layers[0].dtype in _TYPES

    def layers(self, cache: KVCache) -> Sequence[AttentionStruct]:
        """What the kernel is told of each layer of a cache that it reads."""
        if self._structs is None or self._structs[0] is not cache:
            self._structs = (cache, [self._struct(cache, layer) for layer in range(len(cache.layers))])
        return self._structs[1]

    def _struct(self, cache: KVCache, layer: int) -> AttentionStruct:
        stored, sinks = cache.layers[layer], self._sinks[layer]
        _, _, kv_heads, head_dim = stored.shape
        scales = cache.scales[layer].data_ptr() if cache.scales else None
        return AttentionStruct(
            cache=CacheStruct(stored.data_ptr(), scales, _TYPES[stored.dtype], 0, kv_heads, head_dim, cache.block_size),
            heads=self._heads,
            window=self._windows[layer],
            scale=self._scale,
            soft_cap=self._soft_cap,
            sinks=None if sinks is None else sinks.data_ptr(),
        )


class NativePlan:
    """The rows of one step, for all layers."""

    __slots__ = ("_batch", "_context", "_count", "_extents", "_first", "_function", "_layers")

    def __init__(self, context: NativeContext, layers: Sequence[AttentionStruct], batch: Batch) -> None:
        self._context = context
        self._layers = layers
        self._batch = batch  # holds the tables that extents point into
        self._first = first_extent(batch)
        self._extents = byref(self._first)
        self._count = len(batch.starts)
        self._function = context.library.servery_attention

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        query = query if query.stride(1) == 1 else query.contiguous()
        out = torch.empty(query.shape, dtype=query.dtype)
        into = rows_struct(query.data_ptr(), _TYPES[query.dtype], query.stride(0))
        result = rows_struct(out.data_ptr(), _TYPES[out.dtype], out.stride(0))
        if self._function(
            self._context.handle, byref(self._layers[layer]), self._count, self._extents, byref(into), byref(result)
        ):
            raise MemoryError(f"no memory for the attention of {len(query)} tokens.")
        return out


def first_extent(batch: Batch) -> ExtentStruct:
    """The first of as many structs as there are rows, one after the other; good as long as the batch."""
    address, width = batch.table_rows
    columns = np.empty((len(batch.starts), 4), np.int64)
    columns[:, 0] = address + width * np.arange(len(columns))
    columns[:, 1], columns[:, 2], columns[:, 3] = batch.query_starts, batch.counts, batch.starts
    return ExtentStruct.from_buffer(columns.data)
