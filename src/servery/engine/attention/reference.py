"""Attention in plain torch: the oracle for every other backend, and what runs where no kernel was built.

A step is planned as a few *segments*, each one call of scaled dot-product attention per layer:

- a row with many tokens (a piece of a prompt) is a segment of its own;
- a short row (one token, or a few drafts after it) with a long context whose slots are one run is a segment that reads
  the cache in place;
- all other short rows share segments that gather their keys and values, rows with as many tokens and of like length
  together.

Only slots of a row's own context are ever read: the cache holds leftovers of other sequences, and a masked value
that is not a number would still spoil the sum. Padding therefore repeats a slot of the row itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch, Extent, slots_of
from servery.engine.kv import KVCache

# Above this many bytes of keys and values of a row, copying them costs more than another call.
_GATHER_BYTES = 1 << 18
# Splitting a segment has to save this many bytes of padding per layer to be worth another call.
_PADDING_BYTES = 1 << 17
# Rows of up to so many tokens may share a segment: a newest token and its drafts.
_SHORT_TOKENS = 16


# Of query, key and value [..., rows, head_dim], mask, and `is_causal` by name.
_Attention = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Rows that are computed in one call: `queries` and `slots` select from the batch and from a cache layer.

    `mask` is added to the scores; `is_causal` is for a prompt's first piece, which needs none.
    """

    queries: slice | Tensor
    slots: slice | Tensor
    num_rows: int
    mask: Tensor | None = None
    is_causal: bool = False

    def on(self, device: torch.device) -> "_Segment":
        """The same where the cache is; it was planned on the host."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            queries=_to(self.queries, device),
            slots=_to(self.slots, device),
            mask=None if self.mask is None else self.mask.to(device, non_blocking=True),
        )


def _to(which: slice | Tensor, device: torch.device) -> slice | Tensor:
    return which if isinstance(which, slice) else which.to(device, non_blocking=True)


class ReferenceAttention:
    """Grouped-query attention over the paged cache with scaled_dot_product_attention.

    It is written out where scores are capped or heads have sinks.

    Query heads that share a key head are folded into that head's query rows (short rows) or read it through a view
    (prompts), so that keys and values are never repeated in memory. Where the cache has one plane, keys are values.
    """

    def __init__(self, config: ModelConfig, sinks: Sequence[Tensor | None] | None = None) -> None:
        """`sinks` has an entry for each layer, [heads] or None; without it no layer has any."""
        self._windows = config.windows
        self._group = config.num_heads // config.num_kv_heads
        by_layer = [None] * config.num_layers if sinks is None else sinks
        self._sinks = [None if each is None else each.float().view(-1, self._group) for each in by_layer]
        scale, cap = config.attention_scale, config.attention_soft_cap
        self._attention: _Attention = partial(F.scaled_dot_product_attention, scale=scale)
        if cap is not None or config.has_sinks:
            self._attention = partial(_written_out, scale=config.head_dim**-0.5 if scale is None else scale, cap=cap)

    def plan(self, batch: Batch, cache: KVCache) -> "ReferencePlan":
        """Choose the segments, once for each window that some layer has."""
        device = cache.layers[0].device
        segments = {
            window: [each.on(device) for each in _segments(batch, cache, window, self._group)]
            for window in dict.fromkeys(self._windows)
        }
        return ReferencePlan(cache, [segments[window] for window in self._windows], self._attention, self._sinks)


class ReferencePlan:
    """The segments of one step, for each layer, and its sinks [kv_heads, query heads of each]."""

    def __init__(
        self,
        cache: KVCache,
        segments: Sequence[Sequence[_Segment]],
        attention: _Attention,
        sinks: Sequence[Tensor | None],
    ) -> None:
        self._cache = cache
        self._sinks = sinks
        self._segments = segments
        self._attention = attention

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        segments = self._segments[layer]
        if len(segments) == 1:
            return self._attend(layer, segments[0], query)
        result = torch.empty_like(query, memory_format=torch.contiguous_format)
        for segment in segments:
            part = self._attend(layer, segment, query)
            if isinstance(segment.queries, slice):
                result[segment.queries] = part
            else:
                result.index_copy_(0, segment.queries, part)
        return result

    def _attend(self, layer: int, segment: _Segment, query: Tensor) -> Tensor:
        return _attend(segment, query, self._cache.read(layer, segment.slots), self._attention, self._sinks[layer])


def _attend(
    segment: _Segment, query: Tensor, keys_values: Tensor, attention: _Attention, sinks: Tensor | None
) -> Tensor:
    queries = segment.queries
    query = query[queries] if isinstance(queries, slice) else query.index_select(0, queries)
    if isinstance(queries, slice) and segment.num_rows == 1 and len(query) > 1:
        attention = attention if sinks is None else partial(attention, sinks=sinks[..., None, None])
        return _attend_piece(segment, query, keys_values, attention)
    _, planes, num_kv_heads, head_dim = keys_values.shape
    shared = keys_values.view(segment.num_rows, -1, planes, num_kv_heads, head_dim).permute(2, 0, 3, 1, 4)
    num_tokens = len(query) // segment.num_rows
    if sinks is not None:
        attention = partial(attention, sinks=sinks.repeat(1, num_tokens).unsqueeze(2))
    if num_tokens == 1:
        q = query.view(segment.num_rows, num_kv_heads, -1, head_dim)
        return attention(q, shared[0], shared[-1], segment.mask).reshape(segment.num_rows, -1)
    q = query.view(segment.num_rows, num_tokens, num_kv_heads, -1, head_dim).transpose(1, 2)
    folded = q.reshape(segment.num_rows, num_kv_heads, -1, head_dim)
    attended = attention(folded, shared[0], shared[-1], segment.mask)
    return attended.view(q.shape).transpose(1, 2).reshape(len(query), -1)


def _attend_piece(segment: _Segment, query: Tensor, keys_values: Tensor, attention: _Attention) -> Tensor:
    _, _, num_kv_heads, head_dim = keys_values.shape
    q = query.view(len(query), num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
    shared = keys_values.permute(1, 2, 0, 3).unsqueeze(2).expand(-1, -1, q.shape[1], -1, -1)
    out = attention(q, shared[0], shared[-1], segment.mask, is_causal=segment.is_causal)
    return out.permute(2, 0, 1, 3).reshape(len(query), -1)


def _written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    is_causal: bool = False,
    *,
    scale: float,
    cap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(cap tanh(q k / cap) + mask) v (arXiv 2408.00118, section 2), with the softmax in float32.

    `sinks` [heads, query rows or 1, 1] are scores that count in the softmax and have no value (arXiv 2508.10925,
    section 2.2).
    """
    scores = q @ k.transpose(-1, -2)
    scores = scores.mul_(scale) if cap is None else scores.mul_(scale / cap).tanh_().mul_(cap)
    if mask is not None:
        scores += mask
    if is_causal:
        scores.masked_fill_(
            torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1), float("-inf")
        )
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    scores = scores.float()
    total = torch.logaddexp(scores.logsumexp(-1, keepdim=True), sinks)
    return (scores - total).exp_().to(v.dtype) @ v


def _segments(batch: Batch, cache: KVCache, window: int | None, group: int) -> list[_Segment]:
    """`group` is how many query heads share a key head."""
    row_bytes, block_size = cache.row_bytes, cache.block_size
    counts = Counter(extent.num_tokens for extent in batch.extents)
    segments: list[_Segment] = []
    shared: dict[int, list[int]] = {}
    for row, extent in enumerate(batch.extents):
        count = extent.num_tokens
        if count > _SHORT_TOKENS or (count > 1 and counts[count] == 1):
            segments.append(_piece(extent, cache, window))
        elif _reads_in_place(extent, block_size, window, row_bytes, counts[count]):
            segments.append(_piece(extent, cache, window) if count > 1 else _alone(extent, block_size, window))
        else:
            shared.setdefault(count, []).append(row)
    for count, rows in shared.items():
        for together in _groups(rows, batch, window, _PADDING_BYTES // row_bytes):
            if count > 1 and len(together) == 1:
                segments.append(_piece(batch.extents[together[0]], cache, window))
            else:
                segments.append(_together(together, batch, cache, window, group))
    return segments


def _reads_in_place(extent: Extent, block_size: int, window: int | None, row_bytes: int, num_like: int) -> bool:
    first = _first_seen(extent, window)
    is_worth_a_call = num_like == 1 or (extent.context_len - first) * row_bytes > _GATHER_BYTES
    return is_worth_a_call and _is_run(extent, first, block_size)


def _first_seen(extent: Extent, window: int | None) -> int:
    """The first position that the row's first token sees."""
    return 0 if window is None else max(0, extent.start - window + 1)


def _is_run(extent: Extent, first: int, block_size: int) -> bool:
    begin, end = first // block_size, -(-extent.context_len // block_size)
    blocks = extent.block_ids[begin:end]
    return blocks[-1] - blocks[0] == end - begin - 1 and all(b - a == 1 for a, b in pairwise(blocks))


def _run(extent: Extent, first: int, block_size: int) -> slice:
    begin = extent.block_ids[first // block_size] * block_size + first % block_size
    return slice(begin, begin + extent.context_len - first)


def _alone(extent: Extent, block_size: int, window: int | None) -> _Segment:
    queries = slice(extent.query_start, extent.query_start + 1)
    return _Segment(queries, _run(extent, _first_seen(extent, window), block_size), 1)


def _piece(extent: Extent, cache: KVCache, window: int | None) -> _Segment:
    first, block_size = _first_seen(extent, window), cache.block_size
    is_run = _is_run(extent, first, block_size)
    slots = _run(extent, first, block_size) if is_run else torch.tensor(slots_of(extent, first, block_size))
    is_causal = extent.start == 0 and (window is None or extent.num_tokens <= window)
    return _Segment(
        queries=slice(extent.query_start, extent.query_start + extent.num_tokens),
        slots=slots,
        num_rows=1,
        mask=None if is_causal else _piece_mask(extent, first, window, cache.dtype),
        is_causal=is_causal,
    )


def _piece_mask(extent: Extent, first: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[num_tokens, context_len - first], 0 where the query may look and minus infinity elsewhere."""
    keys = torch.arange(first, extent.context_len)
    queries = torch.arange(extent.start, extent.context_len).unsqueeze(1)
    is_hidden = keys > queries
    if window is not None:
        is_hidden |= keys <= queries - window
    return torch.zeros(is_hidden.shape, dtype=dtype).masked_fill_(is_hidden, float("-inf"))


def _groups(rows: Sequence[int], batch: Batch, window: int | None, padding_slots: int) -> Iterator[list[int]]:
    """Split short rows by length wherever that saves more than `padding_slots` of padding; batch order within."""
    seen = {row: batch.extents[row].context_len - _first_seen(batch.extents[row], window) for row in rows}
    by_length = sorted(rows, key=seen.__getitem__, reverse=True)
    begin = 0
    for index, row in enumerate(by_length):
        # This row and all after it would be padded at least this much each.
        if (seen[by_length[begin]] - seen[row]) * (len(rows) - index) > padding_slots:
            yield sorted(by_length[begin:index])
            begin = index
    if rows:
        yield sorted(by_length[begin:])


def _together(rows: Sequence[int], batch: Batch, cache: KVCache, window: int | None, group: int) -> _Segment:
    extents = [batch.extents[row] for row in rows]
    firsts = [_first_seen(extent, window) for extent in extents]
    lengths = [extent.context_len - first for extent, first in zip(extents, firsts, strict=True)]
    longest, num_tokens = max(lengths), extents[0].num_tokens
    last_seen = torch.tensor([extent.context_len - 1 for extent in extents]).unsqueeze(1)
    # Beyond its end a row repeats its newest position, behind the mask.
    positions = (torch.tensor(firsts).unsqueeze(1) + torch.arange(longest)).minimum(last_seen)
    tables = torch.from_numpy(_tables(batch, rows))
    slots = tables.gather(1, positions // cache.block_size).mul_(cache.block_size).add_(positions % cache.block_size)
    mask: Tensor | None = None
    if num_tokens > 1:
        mask = _drafts_mask(lengths, longest, num_tokens, window, cache.dtype).repeat_interleave(group, 2)
    elif min(lengths) < longest:
        mask = _length_mask(lengths, longest, cache.dtype)
    return _Segment(
        queries=_selection([extent.query_start + at for extent in extents for at in range(num_tokens)]),
        slots=slots.flatten(),
        num_rows=len(rows),
        mask=mask,
    )


def _tables(batch: Batch, rows: Sequence[int]) -> NDArray[np.int64]:
    """[rows, most blocks of any]; behind a row's own blocks there is anything."""
    if batch.block_tables.device.type == "cpu":
        return batch.block_tables.numpy()[list(rows)].astype(np.int64, copy=False)
    return np.array([batch.extents[row].block_ids for row in rows], np.int64)


def _drafts_mask(lengths: list[int], longest: int, num_tokens: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """[rows, 1, num_tokens, longest], where the last `num_tokens` of each row's `lengths` positions ask."""
    keys = torch.arange(longest)
    queries = (torch.tensor(lengths).unsqueeze(1) - num_tokens + torch.arange(num_tokens)).unsqueeze(2)
    is_hidden = keys > queries
    if window is not None:
        is_hidden |= keys <= queries - window
    return torch.zeros(is_hidden.shape, dtype=dtype).masked_fill_(is_hidden, float("-inf")).unsqueeze(1)


def _selection(rows: list[int]) -> slice | Tensor:
    is_run = all(b - a == 1 for a, b in pairwise(rows))
    return slice(rows[0], rows[-1] + 1) if is_run else torch.tensor(rows)


def _length_mask(lengths: list[int], longest: int, dtype: torch.dtype) -> Tensor:
    """[rows, 1, 1, longest], minus infinity on the padding of each row."""
    is_padding = torch.arange(longest) >= torch.tensor(lengths).unsqueeze(1)
    return torch.zeros(is_padding.shape, dtype=dtype).masked_fill_(is_padding, float("-inf"))[:, None, None]
