"""One step's input to the model: rows of different sequences, of any length each, laid end to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Extent(NamedTuple):
    """Where one row lies: tokens [query_start, query_start + num_tokens) of the batch are positions [start, start + num_tokens).

    `block_ids` cover at least `start + num_tokens` positions of the sequence.
    """

    query_start: int
    num_tokens: int
    start: int
    block_ids: Sequence[int]

    @property
    def context_len(self) -> int:
        """Positions that the row's last token sees, itself included."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of B rows. `slots` says where each token's keys and values are stored (see `KVCache`).

    input_ids, positions, slots: int64 [T]. block_tables: int64 [B, most blocks of any row], padded with 0. `extents` has
    the facts about rows as plain integers, for planning without reading tensors back.
    """

    input_ids: Tensor
    positions: Tensor
    slots: Tensor
    block_tables: Tensor
    extents: tuple[Extent, ...]

    @classmethod
    def build(cls, rows: Sequence[tuple[Sequence[int], int, Sequence[int]]], block_size: int) -> "Batch":
        """Lay out `rows` of (token ids, position of the first, block ids of the sequence).

        Raises ValueError for a batch or row without tokens and for a row whose blocks do not cover its positions.
        """
        extents = _extents(rows, block_size)
        ids = [token for tokens, _, _ in rows for token in tokens]
        positions = [p for extent in extents for p in range(extent.start, extent.context_len)]
        slots = [slot for extent in extents for slot in slots_of(extent, extent.start, block_size)]
        longest = max(len(extent.block_ids) for extent in extents)
        return cls(
            input_ids=torch.tensor(ids),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            block_tables=torch.tensor([[*e.block_ids, *[0] * (longest - len(e.block_ids))] for e in extents]),
            extents=extents,
        )

    @property
    def longest_context(self) -> int:
        """The largest number of positions that any token sees."""
        return max(extent.context_len for extent in self.extents)


def slots_of(extent: Extent, first: int, block_size: int) -> list[int]:
    """The slots of positions [first, context_len) of a row's sequence."""
    blocks, last = extent.block_ids, extent.context_len
    if last - first == 1:
        return [blocks[first // block_size] * block_size + first % block_size]
    slots: list[int] = []
    for index in range(first // block_size, -(-last // block_size)):
        begin = blocks[index] * block_size
        at = index * block_size
        slots.extend(range(begin + max(first - at, 0), begin + min(last - at, block_size)))
    return slots


def _extents(rows: Sequence[tuple[Sequence[int], int, Sequence[int]]], block_size: int) -> tuple[Extent, ...]:
    if not rows:
        raise ValueError("a batch needs at least one row")
    extents: list[Extent] = []
    at = 0
    for tokens, start, block_ids in rows:
        if not tokens:
            raise ValueError(f"row {len(extents)} has no tokens; every row of a batch needs at least one")
        extent = Extent(at, len(tokens), start, block_ids)
        if len(block_ids) * block_size < extent.context_len:
            raise ValueError(
                f"row {len(extents)} reaches position {extent.context_len} but its {len(block_ids)} blocks of "
                f"{block_size} end before it"
            )
        extents.append(extent)
        at += len(tokens)
    return tuple(extents)
