"""What follows the projection of queries, keys and values: norms of heads, rotation and the way into the cache, at once."""

import triton
from torch import Tensor

from servery.engine.cuda.attention import bits_of, stored_as
from servery.engine.cuda.kernels.rotary import (
    EARLY_NORM,
    LATE_NORM,
    NO_NORM,
    RotaryShape,
    RotaryStrides,
    rotate_and_store,
)
from servery.engine.cuda.tiles import padded
from servery.engine.kv import KVCache
from servery.engine.norm import RMSNorm

_VALUES_PER_PROGRAM = 1024


class Rotation:
    """Rotates heads of `head_dim`, normalized before or after by `norm` [heads + kv_heads, head_dim], if there is one."""

    __slots__ = ("_floor", "_head_dim", "_norm", "_num_heads", "_num_kv_heads", "_weights")

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, norm: RMSNorm | None = None, *, is_late: bool = False
    ) -> None:
        self._num_heads = num_heads
        self._num_kv_heads = num_kv_heads
        self._head_dim = head_dim
        self._norm = int(NO_NORM.value if norm is None else LATE_NORM.value if is_late else EARLY_NORM.value)
        self._weights = None if norm is None else norm.scaled.contiguous()
        self._floor = 0.0 if norm is None else float(norm.floor)

    def __call__(
        self, qkv: Tensor, table: Tensor, positions: Tensor, slots: Tensor, cache: KVCache, layer: int
    ) -> Tensor:
        """Rotated queries [tokens, heads * head_dim] of `qkv`; keys and values go to `slots` of the cache's `layer`.

        `table` is a `RopeTable`'s. A token whose slot is -1 is not stored.
        """
        query = qkv.new_empty(len(qkv), self._num_heads * self._head_dim)
        shape = self._shape(cache)
        codes, scales = bits_of(cache.layers[layer]), cache.scales[layer] if cache.scales else qkv
        strides = RotaryStrides(
            qkv.stride(0),
            query.stride(0),
            codes.stride(0),
            codes.stride(1),
            scales.stride(0),
            scales.stride(1) if cache.scales else 0,
        )
        programs = triton.cdiv(self._num_heads + 2 * self._num_kv_heads, shape.heads)
        weights = table if self._weights is None else self._weights
        rotate_and_store[(len(qkv), programs)](
            query, codes, scales, qkv, table, positions, slots, weights, self._floor, strides, shape, num_warps=4
        )
        return query

    def _shape(self, cache: KVCache) -> RotaryShape:
        width = padded(self._head_dim)
        heads = triton.next_power_of_2(self._num_heads + 2 * self._num_kv_heads)
        return RotaryShape(
            num_heads=self._num_heads,
            num_kv_heads=self._num_kv_heads,
            head_dim=self._head_dim,
            block_d=width,
            heads=min(heads, max(1, _VALUES_PER_PROGRAM // width)),
            stored=stored_as(cache),
            norm=self._norm,
        )
