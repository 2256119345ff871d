"""Parts of a matrix in any layout: its tensors, moved to where they are computed; some of its rows and columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.quantization.matrix import (
    CodebookMatrix,
    DenseMatrix,
    Float8Matrix,
    GroupMatrix,
    Matrix,
    stack_rows,
)
from servery.engine.quantization.nested_matrix import NestedMatrix


def tensors_of(matrix: Matrix) -> Iterator[tuple[str, Tensor]]:
    """The name and the tensor of each part that is one."""
    for field in fields(matrix):  # type: ignore[arg-type]
        if isinstance(value := getattr(matrix, field.name), Tensor):
            yield field.name, value


def device_of(matrix: Matrix) -> torch.device:
    """Where the matrix is held."""
    return next(tensors_of(matrix))[1].device


def moved(matrix: Matrix, move: Callable[[Tensor], Tensor]) -> Matrix:
    """The matrix with what `move` makes of each of its tensors; what `expand` repeats is moved once."""
    changes = {name: _expanded(move(_unexpanded(tensor)), tensor) for name, tensor in tensors_of(matrix)}
    return replace(matrix, **changes)  # type: ignore[type-var]


def select(matrix: Matrix, rows: Sequence[slice] | None, columns: slice | None) -> Matrix:
    """The part of a matrix in `rows`, one after the other, and `columns`; None: all.

    Raises `LoadError` where columns share codes or a scale with others beyond the border.
    """
    if columns is not None:
        matrix = _columns(matrix, columns)
    if rows is None:
        return matrix
    parts = [matrix.select_rows(each) for each in rows]
    whole = stack_rows(parts)
    assert whole is not None  # of one layout
    return whole


def _columns(matrix: Matrix, columns: slice) -> Matrix:
    if isinstance(matrix, DenseMatrix):
        return DenseMatrix(matrix.weight[:, columns])
    if isinstance(matrix, GroupMatrix):
        return _of_groups(matrix, columns)
    if isinstance(matrix, CodebookMatrix):
        size = matrix.shape[1] // matrix.scales.shape[1]
        groups = _groups(matrix, columns, size)
        return replace(matrix, codes=matrix.codes[:, _bytes(columns, 4)], scales=matrix.scales[:, groups])
    if isinstance(matrix, Float8Matrix):
        size = matrix.group_size or matrix.shape[1] // matrix.scales.shape[1]
        scales = matrix.scales if matrix.scales.shape[1] == 1 else matrix.scales[:, _groups(matrix, columns, size)]
        return replace(matrix, codes=matrix.codes[:, columns], scales=scales, group_size=_fitting(matrix, columns))
    if isinstance(matrix, NestedMatrix):
        return _of_units(matrix, columns)
    raise LoadError(f"the columns of a {type(matrix).__name__} cannot be divided among processes.")


def _of_groups(matrix: GroupMatrix, columns: slice) -> GroupMatrix:
    codes = matrix.codes[:, columns if matrix.bits == 8 else _bytes(columns, matrix.bits)]
    if matrix.order is not None:  # any column may be of any group: all scales stay
        return replace(matrix, codes=codes, order=matrix.order[columns])
    if matrix.num_groups == 1:
        return replace(matrix, codes=codes)
    groups = _groups(matrix, columns, matrix.group_size)

    def of_group(values: Any) -> Any:
        return values[:, groups] if isinstance(values, Tensor) else values

    changes = {name: of_group(getattr(matrix, name)) for name in ("scales", "zeros", "minima")}
    return replace(matrix, codes=codes, **changes)


def _of_units(matrix: NestedMatrix, columns: slice) -> NestedMatrix:
    num_columns = matrix.shape[1]
    groups = _groups(matrix, columns, num_columns // matrix.scale_codes.shape[1])
    units = _groups(matrix, columns, num_columns // matrix.unit_scales.shape[1])
    minimum_codes, unit_minima = matrix.minimum_codes, matrix.unit_minima
    return replace(
        matrix,
        codes=matrix.codes[:, columns if matrix.bits == 8 else _bytes(columns, matrix.bits)],
        scale_codes=matrix.scale_codes[:, groups],
        unit_scales=matrix.unit_scales[:, units],
        minimum_codes=None if minimum_codes is None else minimum_codes[:, groups],
        unit_minima=None if unit_minima is None else unit_minima[:, units],
    )


def _groups(matrix: Matrix, columns: slice, size: int) -> slice:
    """The groups of `size` columns that the columns are, if they are whole ones; the last of a row may be short."""
    is_end = columns.stop == matrix.shape[1]
    if columns.start % size or (columns.stop % size and not is_end):
        raise LoadError(
            f"columns {columns.start} to {columns.stop} of a matrix of {matrix.shape[1]} cannot be had alone: each "
            f"{size} share a scale. Lower --tensor-parallel, or take --pipeline-parallel."
        )
    return slice(columns.start // size, -(-columns.stop // size))


def _bytes(columns: slice, bits: int) -> slice:
    """The bytes with the codes of the columns."""
    each = 8 // bits
    if columns.start % each or columns.stop % each:
        raise LoadError(f"columns {columns.start} to {columns.stop} cannot be had alone: {each} codes share a byte.")
    return slice(columns.start // each, columns.stop // each)


def _fitting(matrix: Float8Matrix, columns: slice) -> int | None:
    """The group size of a part: with one scale for a row that is the part itself."""
    if matrix.group_size is None or matrix.scales.shape[1] > 1:
        return matrix.group_size
    width: int = columns.stop - columns.start
    return max(matrix.group_size, width)


def _unexpanded(tensor: Tensor) -> Tensor:
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _expanded(moved_tensor: Tensor, like: Tensor) -> Tensor:
    return moved_tensor if moved_tensor.shape == like.shape else moved_tensor.expand(like.shape)
