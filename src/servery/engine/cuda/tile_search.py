"""Finding the quickest tiles by trying them: what is timed is a kernel's launch, how is passed in."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from triton.runtime.errors import TritonError

from servery.engine.architecture import ModelConfig
from servery.engine.cuda.attention import PagedAttention, PagedRows
from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.linear import CodedLinear, LinearOptions
from servery.engine.cuda.measured import Measured
from servery.engine.cuda.product_tiles import FEW_ROWS, ProductTile
from servery.engine.cuda.tiles import Tile, TileTable, default_tiles, measured_tiles
from servery.engine.kv import KVCache

# Seconds that a call takes.
Seconds = Callable[[Callable[[], object]], float]


def search_attention(
    config: ModelConfig, cache: KVCache, few: PagedRows, many: PagedRows, seconds: Seconds
) -> TileTable:
    """The tiles with which attention over `cache` is quickest for a step of rows of few tokens, and for one of many."""
    start = default_tiles(config.head_dim, cache.dtype.itemsize)

    def timed(table: TileTable, batch: PagedRows) -> float:
        size = (batch.num_tokens, config.num_heads * config.head_dim)
        query = torch.zeros(size, dtype=cache.dtype, device=batch.context_lens.device)
        plan = PagedAttention(config, tiles=table).plan(batch, cache)
        return _or_never(lambda: seconds(lambda: plan.attend(0, query)))

    def few_s(tile: Tile) -> float:
        return timed(TileTable(tile, start.many), few)

    def many_s(tile: Tile) -> float:
        return timed(TileTable(start.few, tile), many)

    return measured_tiles(config.head_dim, cache.dtype.itemsize, few_s, many_s)


def search_product(weight: CodedWeight, x: Tensor, seconds: Seconds) -> ProductTile:
    """The tile with which few rows [rows, k] are multiplied by codes the quickest."""

    def timed(tile: ProductTile) -> float:
        return _or_never(lambda: seconds(lambda: weight.product(x, tile=tile)))

    return min(FEW_ROWS, key=timed)


def search_many_rows(weight: CodedWeight, x: Tensor, rows: Sequence[int], tile: ProductTile, seconds: Seconds) -> int:
    """The first number of `rows`, in ascending order, for which the way for many rows is quicker: codes turned into
    numbers, or float8 tensor cores. Beyond the last it is taken to be.
    """
    linear = CodedLinear(weight, None, LinearOptions(Measured(many_rows={weight.layout_name: 0})))
    for count in rows:
        part = x[:count]
        as_codes = seconds(lambda part=part: weight.product(part, tile=tile))  # type: ignore[misc]
        as_many = seconds(lambda part=part: linear(part))  # type: ignore[misc]
        if as_many < as_codes:
            return count
    return rows[-1] + 1


def _or_never(timed: Callable[[], float]) -> float:
    """Infinity for a tile that this device has no room for."""
    try:
        return timed()
    except (TritonError, RuntimeError):
        return math.inf
