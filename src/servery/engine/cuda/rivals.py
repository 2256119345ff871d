"""Torch's own attention over the same paged cache, to be compared with ours shape by shape."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from servery.engine.architecture import ModelConfig
from servery.engine.cuda.attention import PagedRows
from servery.engine.kv import KVCache


def is_plain(config: ModelConfig, cache: KVCache) -> bool:
    """Whether torch's kernels can read the cache and compute the model's attention, soft caps aside."""
    return not cache.scales and config.kv_planes == 2 and not config.has_sinks and cache.layers[0].dtype == cache.dtype


class VarlenAttention:
    """`torch.nn.attention.varlen` with block tables: FlashAttention 2 or 3, whichever this torch has and accepts them.

    Raises what torch raises where it takes no pages of this size. `num_splits` 1 is its invariant mode.
    """

    def __init__(self, config: ModelConfig, *, num_splits: int | None = None) -> None:
        if config.attention_soft_cap is not None:
            raise ValueError("varlen_attn has no soft cap; compare models without one.")
        from torch.nn.attention.varlen import varlen_attn  # newer than the oldest torch that the engine runs with

        self._config = config
        self._varlen: Callable[..., Any] = partial(varlen_attn, num_splits=num_splits)

    def plan(self, batch: PagedRows, cache: KVCache) -> "VarlenPlan":
        """Nothing is decided ahead."""
        return VarlenPlan(self._config, batch, cache, self._varlen)


class VarlenPlan:
    """One step of `VarlenAttention`."""

    def __init__(self, config: ModelConfig, batch: PagedRows, cache: KVCache, varlen: Callable[..., Any]) -> None:
        self._config = config
        self._batch = batch
        self._cache = cache
        self._varlen = varlen

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        config, batch, stored = self._config, self._batch, self._cache.layers[layer]
        pages = stored.view(-1, self._cache.block_size, *stored.shape[1:])
        window = config.windows[layer]
        attended: Any = self._varlen(
            query.reshape(len(query), config.num_heads, config.head_dim),
            pages[:, :, 0],
            pages[:, :, 1],
            batch.query_starts,
            None,
            batch.max_query_tokens,
            batch.longest_context,
            scale=config.attention_scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=config.num_heads != config.num_kv_heads,
            seqused_k=batch.context_lens,
            block_table=batch.block_tables,
        )
        return torch.as_tensor(attended).flatten(1)


class FlexAttention:
    """FlexAttention over the whole cache, of which a block mask leaves each row its own slots.

    `compiled` fuses it, which is what makes it quick; without, it is computed step by step, for tests.
    """

    def __init__(self, config: ModelConfig, *, compiled: bool = True) -> None:
        self._config = config
        attention, mask = cast(Callable[..., Any], flex_attention), cast(Callable[..., BlockMask], create_block_mask)
        self._flex = torch.compile(attention) if compiled else attention
        self._mask = torch.compile(mask) if compiled else mask

    def plan(self, batch: PagedRows, cache: KVCache) -> "FlexPlan":
        """A block mask for each window."""
        windows = dict.fromkeys(self._config.windows)
        masks = {window: self._block_mask(batch, cache, window) for window in windows}
        return FlexPlan(self._config, cache, [masks[window] for window in self._config.windows], self._flex)

    def _block_mask(self, batch: PagedRows, cache: KVCache, window: int | None) -> BlockMask:
        device, num_slots = batch.context_lens.device, cache.num_blocks * cache.block_size
        owners, places = _owned(batch, cache, num_slots)
        tokens = torch.arange(batch.num_tokens, device=device)
        rows = torch.searchsorted(batch.query_starts[1:].long(), tokens, right=True)
        ends = batch.query_starts[1:][rows]
        positions = batch.context_lens[rows] - ends + tokens

        def sees(_: Tensor, __: Tensor, token: Tensor, slot: Tensor) -> Tensor:
            is_seen = (owners[slot] == rows[token]) & (places[slot] <= positions[token])
            return is_seen if window is None else is_seen & (places[slot] > positions[token] - window)

        return self._mask(sees, None, None, batch.num_tokens, num_slots, device=str(device))


class FlexPlan:
    """One step of `FlexAttention`."""

    def __init__(self, config: ModelConfig, cache: KVCache, masks: list[BlockMask], flex: Callable[..., Any]) -> None:
        self._config = config
        self._cache = cache
        self._masks = masks
        self._flex = flex

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        config, stored = self._config, self._cache.layers[layer]
        cap = config.attention_soft_cap

        def capped(score: Tensor, *_: Tensor) -> Tensor:
            return score if cap is None else cap * torch.tanh(score / cap)

        heads = query.view(1, len(query), config.num_heads, config.head_dim).transpose(1, 2)
        keys, values = (stored[:, plane].transpose(0, 1).unsqueeze(0) for plane in range(2))
        attended: Tensor = self._flex(
            heads,
            keys,
            values,
            score_mod=None if cap is None else capped,
            block_mask=self._masks[layer],
            scale=config.attention_scale,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).reshape(len(query), -1)


def _owned(batch: PagedRows, cache: KVCache, num_slots: int) -> tuple[Tensor, Tensor]:
    """Of each slot the row whose context it is part of, or -1, and the position there; int64 [slots] both."""
    device, block_size = batch.context_lens.device, cache.block_size
    places = torch.arange(batch.block_tables.shape[1] * block_size, device=device)
    slots = batch.block_tables.long()[:, places // block_size] * block_size + places % block_size
    is_context = places < batch.context_lens[:, None]
    # Slots that are nobody's are written to a place behind all others.
    at = torch.where(is_context, slots, num_slots).flatten()
    rows = torch.arange(batch.num_rows, device=device)[:, None].expand_as(slots).flatten()
    owners, positions = (torch.full((num_slots + 1,), -1, device=device) for _ in range(2))
    return owners.scatter_(0, at, rows)[:-1], positions.scatter_(0, at, places.expand_as(slots).flatten())[:-1]
