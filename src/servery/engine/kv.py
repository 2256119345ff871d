"""The KV cache: keys and values of every layer, in blocks that belong to sequences."""

import math
import mmap

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.kv_format import SCALE_DTYPE, KVFormat, dequantize, plain_format, quantize, scale_width


class KVCache:
    """Keys and values for `num_blocks` blocks of `block_size` positions, computed in `dtype`, stored in `format`.

    A *slot* is one position of one block: slot = block * block_size + offset. A layer is [slots, 2, kv_heads,
    head_dim] with keys at 0 and values at 1, so that neighbouring blocks of one sequence are one contiguous run, and
    writing a token is copying one row. With latent attention, whose values are its keys, there is 1 in place of 2.

    Where the format has scales, `layers` are codes and `scales` [slots, 2, kv_heads] of each layer belong to them
    (value = code * scale); else `scales` is empty. A kernel reads those two; everybody else `read`s. A latent is stored
    as so many heads of `scale_width`.

    Memory is reserved as zeros, which the system hands out on first use: a cache larger than what is used costs
    address space only.
    """

    __slots__ = ("_heads", "_rows", "block_size", "dtype", "format", "layers", "num_blocks", "row_bytes", "scales")

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: str = "cpu",
        kv_format: KVFormat | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.format = plain_format(dtype) if kv_format is None else kv_format
        shape = (config.num_layers, num_blocks * block_size, config.kv_planes, config.num_kv_heads, config.head_dim)
        self.layers: tuple[Tensor, ...] = _zeros(shape, self.format.dtype, device).unbind(0)
        self.scales: tuple[Tensor, ...] = ()
        width = scale_width(config)
        self._heads = (config.kv_planes, config.num_kv_heads * config.head_dim // width, width)
        if self.format.largest is not None:
            self.scales = _zeros((*shape[:2], *self._heads[:2]), SCALE_DTYPE, device).unbind(0)
        self._rows = tuple(_movable(layer).flatten(1) for layer in self.layers)
        # Memory of one slot of one layer.
        self.row_bytes: int = self.layers[0][0].nbytes + (self.scales[0][0].nbytes if self.scales else 0)

    @property
    def nbytes(self) -> int:
        """Memory of all blocks."""
        return self.num_blocks * self.block_size * self.row_bytes * len(self.layers)

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store `keys_values` [tokens, planes * kv_heads * head_dim], keys first, at `slots` [tokens] of `layer`."""
        if self.scales:
            codes, scales = quantize(keys_values.view(-1, *self._heads), self.format)
            self.scales[layer].index_copy_(0, slots, scales)
            keys_values = _movable(codes).flatten(1)
        self._rows[layer].index_copy_(0, slots, keys_values.to(self._rows[layer].dtype))

    def read(self, layer: int, slots: slice | Tensor) -> Tensor:
        """Keys and values [slots, 2, kv_heads, head_dim] in `dtype` at `slots` of `layer`; a view where it can be one."""
        stored = self.layers[layer]
        codes = _select(_movable(stored), slots).view(stored.dtype)
        if self.scales:
            heads = codes.view(-1, *self._heads)
            return dequantize(heads, _select(self.scales[layer], slots), self.dtype).view(codes.shape)
        return codes.to(self.dtype)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros that take memory only where they are written, on huge pages if the system has some.

    torch would write every page at once. Raises `MemoryError` where the system gives none.
    """
    if device != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=dtype, device=device)
    nbytes = math.prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"tried to allocate {nbytes} bytes for keys and values: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8, count=nbytes).view(dtype).view(shape)


def _movable(values: Tensor) -> Tensor:
    """The same memory in a type that torch copies rows of: for float8 it has only conversions."""
    return values.view(torch.uint8) if values.dtype.is_floating_point and values.dtype.itemsize == 1 else values


def _select(rows: Tensor, which: slice | Tensor) -> Tensor:
    """The rows that `which` selects; indexing with a tensor would be many times slower than `index_select`."""
    return rows[which] if isinstance(which, slice) else rows.index_select(0, which)
