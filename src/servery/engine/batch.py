"""One step's input to the model: rows of different sequences, of any length each, laid end to end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.block_tables import BlockTables

# Token ids, the position of the first, and the blocks of the sequence.
Row = tuple[Sequence[int], int, Sequence[int]]


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


class Batch:
    """T tokens of B rows. `slots` says where each token's keys and values are stored (see `KVCache`).

    input_ids, positions, slots: int64 [T]. block_tables: int64 [B, most blocks of any row], of which a row's own come
    first; what follows means nothing. `starts`, `counts` and `query_starts` int64 [B] are of each row the position of
    its first token, its number of tokens and where they begin in the batch; `longest_context` is the largest number of
    positions that any token sees.
    """

    __slots__ = (
        "_extents",
        "_rows",
        "_table",
        "counts",
        "input_ids",
        "longest_context",
        "positions",
        "query_starts",
        "slots",
        "starts",
    )

    def __init__(self, rows: Sequence[Row], block_size: int, tables: BlockTables) -> None:
        """As `build` says; `tables` keeps the block tables from step to step."""
        if not rows:
            raise ValueError("a batch needs at least one row")
        ids, starts, blocks = zip(*rows, strict=True)
        self._rows, self._extents = rows, ()  # type: tuple[Sequence[Row], tuple[Extent, ...]]
        self.starts: NDArray[np.int64] = np.array(starts, np.int64)
        counts = [len(each) for each in ids]
        self._table, widths = tables.arranged(blocks), tables.widths
        if sum(counts) == len(counts) and 0 not in counts:  # a token each: the common case
            self.counts, self.query_starts = tables.ones, tables.numbers
            token_ids = [each[0] for each in ids]
            positions, row_of_token, last = self.starts, self.query_starts, self.starts
        else:
            self.counts = np.array(counts, np.int64)
            ends = self.counts.cumsum()
            self.query_starts = ends - self.counts
            token_ids = [token for each in ids for token in each]
            row_of_token = np.repeat(tables.numbers, self.counts)
            positions = np.arange(len(token_ids)) + (self.starts - self.query_starts)[row_of_token]
            last = self.starts + self.counts - 1
        self.longest_context = int(last.max()) + 1
        _check(counts, last, widths, block_size)
        block = positions // block_size
        slots = self._table[row_of_token, block] * block_size
        slots += positions - block * block_size
        self.input_ids = torch.from_numpy(np.array(token_ids, np.int64))
        self.positions, self.slots = torch.from_numpy(positions), torch.from_numpy(slots)

    @property
    def block_tables(self) -> Tensor:
        """int64 [B, most blocks of any row]."""
        return torch.from_numpy(self._table)

    @property
    def table_rows(self) -> tuple[int, int]:
        """The address of the first row of `block_tables`, and the bytes from one to the next."""
        return self._table.ctypes.data, self._table.strides[0]

    @classmethod
    def build(cls, rows: Sequence[Row], block_size: int, tables: BlockTables | None = None) -> "Batch":
        """Lay out `rows`.

        With `tables`, which whoever runs one step after another keeps, the batch is good until the next that is built
        with them. Raises ValueError for a batch or row without tokens and for a row whose blocks do not cover its
        positions.
        """
        return cls(rows, block_size, BlockTables() if tables is None else tables)

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The facts about rows as plain integers, for planning without reading tensors back."""
        if not self._extents:
            starts = self.query_starts.tolist()
            rows = zip(starts, self._rows, strict=True)
            self._extents = tuple([Extent(at, len(ids), start, blocks) for at, (ids, start, blocks) in rows])
        return self._extents


def slots_of(extent: Extent, first: int, block_size: int) -> list[int]:
    """The slots of positions [first, context_len) of a row's sequence."""
    blocks, last = extent.block_ids, extent.context_len
    slots: list[int] = []
    for index in range(first // block_size, -(-last // block_size)):
        begin = blocks[index] * block_size
        at = index * block_size
        slots.extend(range(begin + max(first - at, 0), begin + min(last - at, block_size)))
    return slots


def _check(counts: Sequence[int], last: NDArray[np.int64], widths: NDArray[np.int64], block_size: int) -> None:
    """`last` [B] are the positions of the rows' last tokens, `widths` [B] how many blocks they have."""
    if 0 in counts:
        raise ValueError(f"row {counts.index(0)} has no tokens; every row of a batch needs at least one")
    short = last >= widths * block_size
    if short.any():
        row = int(short.argmax())
        raise ValueError(
            f"row {row} reaches position {last[row] + 1} but its {widths[row]} blocks of {block_size} end before it"
        )
