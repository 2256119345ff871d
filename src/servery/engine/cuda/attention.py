"""Attention on a GPU: Triton's kernel over the paged cache, launched by shapes alone so that a CUDA graph can hold it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.cuda.kernels.arithmetic import FP8, INT8, PLAIN
from servery.engine.cuda.kernels.attention import AttentionShape, AttentionStrides, attend_rows, sum_parts
from servery.engine.cuda.measured import Measured
from servery.engine.cuda.tiles import Tile, TileTable, default_tiles, num_parts, padded, part_positions
from servery.engine.kv import KVCache
from servery.engine.kv_format import scale_width

# Programs per multiprocessor that keep its memory pipe full.
_PROGRAMS_PER_SM = 4
# Rows of up to so many tokens, the newest and its drafts, may share a program's lines.
_MOST_FEW_TOKENS = 16
_MOST_FEW_LINES = 64


class PagedRows(Protocol):
    """What attention has to know of a batch; tensors are on the device.

    `block_tables` int32 [rows, blocks], `context_lens` int32 [rows] (the positions that a row's last token sees; 0: the
    row is padding), `query_starts` int32 [rows + 1]. `max_query_tokens` and `longest_context` bound what is in them.
    """

    @property
    def block_tables(self) -> Tensor: ...  # noqa: D102
    @property
    def context_lens(self) -> Tensor: ...  # noqa: D102
    @property
    def query_starts(self) -> Tensor: ...  # noqa: D102
    @property
    def max_query_tokens(self) -> int: ...  # noqa: D102
    @property
    def longest_context(self) -> int: ...  # noqa: D102
    @property
    def num_rows(self) -> int: ...  # noqa: D102
    @property
    def num_tokens(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class _Launch:
    """One launch over all rows: of those with few tokens or of the others, in `parts` of their contexts."""

    tile: Tile
    heads: int
    few_tokens: int
    is_short: bool
    blocks: int
    parts: int
    part_tiles: int

    @property
    def is_split(self) -> bool:
        return self.parts > 1


class PagedAttention:
    """Grouped-query attention over the paged cache: an `AttentionBackend` for batches on the device.

    `tiles` None: those that were `measured`, else those of the table. With `invariant` the parts of a context, and so the order of sums, depend on
    that row alone and never on the other rows of a batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        sinks: Sequence[Tensor | None] | None = None,
        *,
        tiles: TileTable | None = None,
        measured: Measured | None = None,
        invariant: bool = False,
    ) -> None:
        self._config = config
        self._measured = measured or Measured()
        self._tiles = tiles
        self._invariant = invariant
        by_layer = [None] * config.num_layers if sinks is None else sinks
        self._sinks = [None if each is None else each.float() for each in by_layer]

    def plan(self, batch: PagedRows, cache: KVCache) -> "PagedPlan":
        """Decide what to launch. Reads nothing from the device."""
        return PagedPlan(self._config, batch, cache, self._launches(batch, self._tiles_for(cache)), self._sinks)

    def _tiles_for(self, cache: KVCache) -> TileTable:
        sizes = (self._config.head_dim, cache.dtype.itemsize, cache.format.dtype.itemsize)
        return self._tiles or self._measured.attention.get(sizes) or default_tiles(*sizes[:2])

    def _launches(self, batch: PagedRows, tiles: TileTable) -> list[_Launch]:
        group, longest = self._config.num_heads // self._config.num_kv_heads, batch.max_query_tokens
        few = tiles.few
        if not self._invariant and 1 < longest <= _MOST_FEW_TOKENS:
            few = self._with_drafts(few, min(max(few.lines, padded(group * longest)), _MOST_FEW_LINES))
        heads = min(group, few.lines)
        few_tokens = few.lines // heads
        launches = []
        if batch.num_rows > 1 or longest <= few_tokens or self._invariant:
            launches.append(self._short(batch, few, heads, few_tokens))
        if longest > few_tokens:
            heads = min(group, tiles.many.lines)
            blocks = batch.num_tokens // (tiles.many.lines // heads) + batch.num_rows
            launches.append(_Launch(tiles.many, heads, few_tokens if launches else 0, False, blocks, 1, 0))
        return launches

    def _with_drafts(self, tile: Tile, lines: int) -> Tile:
        """The tile with lines for the drafts of a row, where there is room; else these rows are not split."""
        wider = replace(tile, lines=lines)
        return wider if wider.fits(self._config.head_dim, 2) else tile

    def _short(self, batch: PagedRows, tile: Tile, heads: int, few_tokens: int) -> _Launch:
        if self._invariant:
            size = max(part_positions(self._config.max_position), tile.positions)
            parts, part_tiles = math.ceil(batch.longest_context / size), size // tile.positions
        else:
            group = self._config.num_heads // self._config.num_kv_heads
            programs = batch.num_rows * self._config.num_kv_heads * math.ceil(group / heads)
            wanted = _PROGRAMS_PER_SM * multiprocessors(batch.context_lens.device)
            parts, part_tiles = num_parts(programs, batch.longest_context, tile.positions, wanted), 0
        return _Launch(tile, heads, few_tokens, True, batch.num_rows, max(parts, 1), part_tiles)


class PagedPlan:
    """One step's launches, for each layer."""

    def __init__(
        self,
        config: ModelConfig,
        batch: PagedRows,
        cache: KVCache,
        launches: Sequence[_Launch],
        sinks: Sequence[Tensor | None],
    ) -> None:
        self._config = config
        self._batch = batch
        self._cache = cache
        self._launches = launches
        self._sinks = sinks
        self._scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        # Tokens behind the last row's are padding and stay as they are.
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        for launch in self._launches:
            self._run(layer, launch, query, out)
        return out

    def _run(self, layer: int, launch: _Launch, query: Tensor, out: Tensor) -> None:
        config, batch, sinks = self._config, self._batch, self._sinks[layer]
        shape = self._shape(layer, launch)
        codes, scales = bits_of(self._cache.layers[layer]), self._cache.scales[layer] if self._cache.scales else out
        places = batch.num_rows * launch.few_tokens * config.num_heads * launch.parts if launch.is_split else 0
        sums = query.new_empty(places * config.head_dim, dtype=torch.float32) if places else out
        peaks = query.new_empty(places * 2, dtype=torch.float32) if places else out
        strides = AttentionStrides(
            query.stride(0),
            out.stride(0),
            codes.stride(0),
            codes.stride(1),
            scales.stride(0),
            scales.stride(1) if self._cache.scales else 0,
        )
        head_parts = math.ceil(shape.group / shape.heads)
        attend_rows[(launch.blocks, config.num_kv_heads * head_parts, launch.parts)](
            out,
            sums,
            peaks,
            query,
            codes,
            scales,
            out if sinks is None else sinks,
            batch.block_tables,
            batch.context_lens,
            batch.query_starts,
            batch.num_rows,
            launch.parts,
            batch.block_tables.stride(0),
            strides,
            self._scale,
            config.attention_soft_cap or 1.0,
            shape,
            num_warps=launch.tile.warps,
            num_stages=launch.tile.stages,
        )
        if launch.is_split:
            sum_parts[(batch.num_rows, min(launch.few_tokens, batch.max_query_tokens), config.num_heads)](
                out,
                sums,
                peaks,
                out if sinks is None else sinks,
                batch.context_lens,
                batch.query_starts,
                launch.parts,
                out.stride(0),
                shape,
                num_warps=1,
            )

    def _shape(self, layer: int, launch: _Launch) -> AttentionShape:
        config, cache = self._config, self._cache
        return AttentionShape(
            num_heads=config.num_heads,
            group=config.num_heads // config.num_kv_heads,
            heads=launch.heads,
            head_dim=config.head_dim,
            block_d=padded(config.head_dim),
            block_m=launch.tile.lines,
            block_n=launch.tile.positions,
            block_size=cache.block_size,
            window=config.windows[layer] or 0,
            stored=stored_as(cache),
            scale_width=scale_width(config),
            one_plane=config.kv_planes == 1,
            has_cap=config.attention_soft_cap is not None,
            has_sinks=self._sinks[layer] is not None,
            few_tokens=launch.few_tokens,
            is_short=launch.is_short,
            is_split=launch.is_split,
            part_tiles=launch.part_tiles,
        )


def stored_as(cache: KVCache) -> int:
    """The kernels' name for the cache's format."""
    if not cache.scales:
        return int(PLAIN.value)
    return int(FP8.value if cache.format.dtype.is_floating_point else INT8.value)


def bits_of(stored: Tensor) -> Tensor:
    """Codes as int8 whatever they mean, other values as they are: not every GPU that computes has float8."""
    return stored.view(torch.int8) if stored.dtype.itemsize == 1 else stored


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs a device runs side by side; of a CPU, where kernels are interpreted, any number will do."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
