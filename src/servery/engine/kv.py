"""The KV cache: keys and values of every layer, in blocks that belong to sequences."""

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig


class KVCache:
    """Keys and values for `num_blocks` blocks of `block_size` positions.

    A *slot* is one position of one block: slot = block * block_size + offset. A layer is [slots, 2, kv_heads,
    head_dim] with keys at 0 and values at 1, so that neighbouring blocks of one sequence are one contiguous run, and
    writing a token is copying one row.

    Memory is reserved as zeros, which the system hands out on first use: a cache larger than what is used costs
    address space only.
    """

    __slots__ = ("_rows", "block_size", "dtype", "layers", "num_blocks")

    def __init__(
        self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        shape = (config.num_layers, num_blocks * block_size, 2, config.num_kv_heads, config.head_dim)
        self.layers: tuple[Tensor, ...] = torch.zeros(shape, dtype=dtype, device=device).unbind(0)
        self._rows = tuple(layer.flatten(1) for layer in self.layers)

    def write(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Store `keys_values` [tokens, 2 * kv_heads * head_dim], keys first, at `slots` [tokens] of `layer`."""
        self._rows[layer].index_copy_(0, slots, keys_values)
