"""A part of a stored tensor: some of its rows, some of its columns."""

from typing import NamedTuple


class Cut(NamedTuple):
    """Which rows of a stored tensor, in order, and which columns; None: all. `is_summed`: only one process has it.

    The others have zeros in its place, because it is added before a sum over all of them.
    """

    rows: tuple[slice, ...] | None = None
    columns: slice | None = None
    is_summed: bool = False

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """That of the part of a tensor of shape `whole`."""
        rows = whole[0] if self.rows is None else sum(each.stop - each.start for each in self.rows)
        rest = whole[1:] if self.columns is None else (self.columns.stop - self.columns.start,)
        return rows, *rest

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.rows is None and self.columns is None


WHOLE = Cut()
