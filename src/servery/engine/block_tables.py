"""The block tables of the rows of a step as one array that is kept from step to step."""

from collections.abc import Sequence
from operator import is_

import numpy as np
from numpy.typing import NDArray


class BlockTables:
    """Rows of block ids, written only where they changed: most steps have the rows of the step before.

    A table that was given before is taken for the same as long as it is the same list and no shorter: lists of block
    ids only ever grow at their end.
    """

    __slots__ = ("_array", "_counted", "_rows", "_widths", "numbers", "ones", "widths")

    def __init__(self) -> None:
        self._array: NDArray[np.int64] = np.zeros((1, 8), np.int64)
        self._rows: Sequence[Sequence[int]] = ()
        self._widths: list[int] = []
        self._counted = np.zeros((3, 0), np.int64)
        # Of as many rows as were arranged: their numbers, a 1 for each, and how many blocks they have.
        self.numbers = self.ones = self.widths = self._counted[0]

    def arranged(self, tables: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """[rows, most blocks of any]; behind a row's own blocks anything may stand. Good until the next call."""
        widths = [len(table) for table in tables]
        widest = max(widths)
        if len(tables) > self._array.shape[0] or widest > self._array.shape[1]:
            self._grow(len(tables), widest)
        if len(tables) != len(self.widths):
            self._count(len(tables))
        for row in self._changed(tables, widths):
            table, width = tables[row], self._width_of(row, tables[row])
            self._array[row, width : widths[row]] = table[width:]
            self.widths[row] = widths[row]
        self._rows, self._widths = tuple(tables), widths
        return self._array[: len(tables), :widest]

    def _changed(self, tables: Sequence[Sequence[int]], widths: list[int]) -> list[int]:
        """The rows that the array does not have as they are."""
        known = self._rows
        if len(known) == len(tables) and all(map(is_, known, tables)):
            if widths == self._widths:
                return []
            return [
                row for row, (width, before) in enumerate(zip(widths, self._widths, strict=True)) if width != before
            ]
        return list(range(len(tables)))

    def _width_of(self, row: int, table: Sequence[int]) -> int:
        """How much of a table stands in a row of the array already."""
        is_known = row < len(self._rows) and self._rows[row] is table
        return self._widths[row] if is_known and self._widths[row] <= len(table) else 0

    def _count(self, rows: int) -> None:
        if rows > self._counted.shape[1]:
            self._counted = np.stack([np.arange(2 * rows), np.ones(2 * rows, np.int64), np.zeros(2 * rows, np.int64)])
        self.numbers, self.ones, self.widths = (each[:rows] for each in self._counted)

    def _grow(self, rows: int, width: int) -> None:
        """Room for twice as much, so that growing stays rare; what was written is written again."""
        height, before = self._array.shape
        self._array = np.zeros((max(2 * rows, height), max(2 * width, before)), np.int64)
        self._rows, self._widths = (), []
