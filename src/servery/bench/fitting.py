"""A table that fits into the terminal: columns that can be spared give way to those that cannot."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def fitting(console: Console, columns: Mapping[str, Sequence[str]], spare: Sequence[str]) -> Table:
    """`columns` by their heads, the first to the left and all others to the right; `spare` in the order in which they go."""
    kept, going = dict(columns), list(spare)
    table = _table(kept)
    # Asked of a terminal without an end: one that is too narrow would say that all fits, cut off.
    endless = console.options.update(width=10_000)
    while going and Measurement.get(console, endless, table).maximum > console.width:
        kept.pop(going.pop(0), None)
        table = _table(kept)
    return table


def _table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=SIMPLE, collapse_padding=True, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
