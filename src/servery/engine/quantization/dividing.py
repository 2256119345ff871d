"""A module of which only a part is read: each of its stored tensors is cut where the part ends, before it is packed anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from servery.engine.checkpoint import StoredTensor
from servery.engine.cut import Cut


class Axis(NamedTuple):
    """A dimension of a stored tensor: one of its places holds `per` neighbours of the matrix's rows, or of its columns.

    `shown` of them are one in its `shape`, where that is not of what is stored but of the values.
    """

    is_rows: bool
    per: int = 1
    shown: int | None = None


ROWS, COLUMNS = Axis(True), Axis(False)
# For each dimension of a tensor what it is of, None where it stays whole.
Axes = tuple[Axis | None, ...]


def rows_by(per: int) -> Axis:
    """So many rows in one place."""
    return Axis(True, per)


def columns_by(per: int) -> Axis:
    """So many columns in one place."""
    return Axis(False, per)


@dataclass(frozen=True, slots=True)
class CutTensor:
    """Some places of a stored tensor, itself a `StoredTensor`; nothing else of it is read.

    `places` are those of each dimension, in order, None: all.
    """

    whole: StoredTensor
    shape: tuple[int, ...]
    places: tuple[tuple[slice, ...] | None, ...]

    @property
    def path(self) -> Path:
        """The file."""
        return self.whole.path

    @property
    def name(self) -> str:
        """That of the whole."""
        return self.whole.name

    @property
    def dtype(self) -> str:
        """The type of its values as safetensors calls it."""
        return self.whole.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its data in the file."""
        return self.whole.nbytes * prod(self.shape) // max(1, prod(self.whole.shape))

    def load(self) -> Tensor:
        """The data, mapped where it is in one piece."""
        data = self.whole.load()
        for dim, places in enumerate(self.places):
            if places is not None:
                parts = [data.narrow(dim, each.start, each.stop - each.start) for each in places]
                data = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        return data


def divide(
    tensors: Mapping[str, StoredTensor], shape: tuple[int, int], cut: Cut, axes: Mapping[str, Axes]
) -> dict[str, StoredTensor] | None:
    """The tensors of a matrix `shape` as far as a part of it needs them; those without `axes` are left as they are.

    None where a border of the part goes through a place, or a tensor does not have the shape that `axes` say: whoever
    reads all of it finds out what to say.
    """
    found = dict(tensors)
    for suffix, of_tensor in axes.items():
        if suffix in tensors:
            part = _cut(tensors[suffix], shape, cut, of_tensor)
            if part is None:
                return None
            found[suffix] = part
    return found


def spread_axes(
    stored: tuple[int, ...], *, group_size: int | None = None, block: tuple[int, int] | None = None
) -> Axes:
    """Those of scales or zero points as `load_spread` reads them."""
    if block is not None:
        return rows_by(block[0]), columns_by(block[1])
    if group_size is not None:
        return ROWS, columns_by(group_size)
    return () if stored in {(), (1,), (1, 1)} else (ROWS, *[None] * (len(stored) - 1))


def _cut(tensor: StoredTensor, shape: tuple[int, int], cut: Cut, axes: Axes) -> StoredTensor | None:
    if not axes:
        return tensor
    if len(tensor.shape) != len(axes):
        return None
    sizes: list[int] = list(tensor.shape)
    places: list[tuple[slice, ...] | None] = [None] * len(axes)
    for dim, axis in enumerate(axes):
        channels = None if axis is None else _channels(cut, axis)
        if axis is None or channels is None:
            continue
        whole, shown = shape[0 if axis.is_rows else 1], axis.shown or axis.per
        if tensor.shape[dim] != -(-whole // shown) or not all(_fits(each, axis.per, whole) for each in channels):
            return None
        places[dim] = tuple(slice(each.start // axis.per, -(-each.stop // axis.per)) for each in channels)
        sizes[dim] = sum(-(-each.stop // shown) - each.start // shown for each in channels)
    return CutTensor(tensor, tuple(sizes), tuple(places))


def _channels(cut: Cut, axis: Axis) -> tuple[slice, ...] | None:
    if axis.is_rows:
        return cut.rows
    return None if cut.columns is None else (cut.columns,)


def _fits(channels: slice, per: int, whole: int) -> bool:
    """Whether the borders lie between places; the last place may be narrower."""
    start, stop = int(channels.start), int(channels.stop)
    return start % per == 0 and (stop % per == 0 or stop == whole)
