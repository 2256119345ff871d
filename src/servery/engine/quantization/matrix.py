"""The weight of a linear layer as it is held in memory: dense, or codes with scales by group.

A matrix is [out_features N, in_features K]. Codes stay packed; `dequantize` gives the values. Where a reference
format defines the order and the type of the floating-point operations, these are part of the matrix (`arithmetic`), so
that the values equal the reference bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.quantization.decode import codebook_values, float8_values

_Operation = Callable[..., Tensor]


class Matrix(Protocol):
    """A weight [N, K] in some layout.

    A class whose matrices can be stacked names in `by_row` its fields with a row for each output channel; the others
    must be the same in all parts.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        ...

    @property
    def nbytes(self) -> int:
        """What it holds in memory, scales and all."""
        ...

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K], computed as the format says and then rounded to `dtype`."""
        ...

    def select_rows(self, index: Tensor | slice) -> "Matrix":
        """The rows that `index` names, in its order; a slice shares memory."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DenseMatrix:
    """The values themselves."""

    weight: Tensor

    by_row: ClassVar = frozenset({"weight"})

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return _held_bytes(self.weight)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[N, K]; the weight itself when it has that type."""
        return self.weight.to(dtype)

    def select_rows(self, index: Tensor | slice) -> "DenseMatrix":
        """The rows that `index` names."""
        return DenseMatrix(_rows(self.weight, index))


@dataclass(frozen=True, slots=True, eq=False)
class GroupMatrix:
    """Whole-number codes, of which each group of K / G columns shares a scale: `w = (code - zero) * scale`.

    `codes` has 8 bits ([N, K], int8 or uint8) or 4 ([N, K / 2] uint8, column 2j in the low half of byte j).
    `scales` [N, G]; G = 1 is a scale per output channel. `zeros` is one number, or whole numbers [N, G].
    With `minima` [N, G], as in GGUF, it is `w = code * scale - minimum`.
    `order` [K] is the group of each column (GPTQ with act-order); without it the groups are neighbours.
    `arithmetic` is the type of the operations; None: that of `scales`. `unit` is what all values are multiplied by at
    last. `rounds_input`: the layer is meant to run with its input rounded to 8 bits per row (W8A8). Raises `LoadError`
    when the parts do not fit each other.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | int = 0
    minima: Tensor | None = None
    order: Tensor | None = None
    bits: int = 8
    arithmetic: torch.dtype | None = None
    unit: float = 1.0
    rounds_input: bool = False

    by_row: ClassVar = frozenset({"codes", "scales", "zeros", "minima"})

    def __post_init__(self) -> None:
        if self.bits not in {4, 8}:
            raise LoadError(f"codes have {self.bits} bits; 4 and 8 are supported.")
        rows, columns = self.shape
        of_groups = [self.scales, *(t for t in (self.zeros, self.minima) if isinstance(t, Tensor))]
        if any(tuple(each.shape) != (rows, self.num_groups) for each in of_groups):
            shapes = ", ".join(str(list(each.shape)) for each in of_groups)
            raise LoadError(f"scales and zeros have shapes {shapes}; for {rows} rows of codes they must be equal.")
        if self.order is not None and self.order.shape != (columns,):
            raise LoadError(f"the order of groups has shape {list(self.order.shape)}; it must be [{columns}].")
        if self.order is None and columns % self.num_groups:
            raise LoadError(f"{columns} columns cannot be divided into {self.num_groups} groups.")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] * 8 // self.bits

    @property
    def num_groups(self) -> int:
        """How many scales a row has."""
        return self.scales.shape[1]

    @property
    def group_size(self) -> int:
        """How many neighbouring columns share a scale."""
        return self.shape[1] // self.num_groups

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and what else there is."""
        parts = (self.codes, self.scales, self.zeros, self.minima, self.order)
        return sum(_held_bytes(part) for part in parts if isinstance(part, Tensor))

    def integers(self) -> Tensor:
        """The codes as stored, one per element: [N, K] uint8 or int8."""
        return self.codes if self.bits == 8 else unpack_halves(self.codes)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K], computed in `arithmetic`."""
        values = self._centred(self.arithmetic or self.scales.dtype)
        values = self._by_group(torch.mul, values, self.scales)
        if self.minima is not None:
            values = self._by_group(torch.sub, values, self.minima)
        if self.unit != 1.0:
            values = values * self.unit
        return values.to(dtype)

    def _centred(self, kind: torch.dtype) -> Tensor:
        """Codes less their zero points [N, K]: whole numbers, exact in any type."""
        shared = 0 if isinstance(self.zeros, Tensor) else self.zeros
        if self.bits == 4:
            of_code = (torch.arange(16, device=self.codes.device) - shared).to(kind)
            values = codebook_values(self.codes, of_code)
        else:
            values = self.codes.to(kind)
            values = values - shared if shared else values
        return self._by_group(torch.sub, values, self.zeros) if isinstance(self.zeros, Tensor) else values

    def _by_group(self, operation: _Operation, values: Tensor, operand: Tensor) -> Tensor:
        """`operation` of each value [N, K] with its group's `operand` [N, G]."""
        operand = operand.to(values.dtype)
        if self.order is not None:
            return operation(values, operand.index_select(1, self.order))
        grouped = values.view(values.shape[0], self.num_groups, -1)
        return operation(grouped, operand.unsqueeze(2)).view_as(values)

    def select_rows(self, index: Tensor | slice) -> "GroupMatrix":
        """The rows that `index` names, with their scales."""
        return replace(
            self,
            codes=_rows(self.codes, index),
            scales=_rows(self.scales, index),
            zeros=_rows(self.zeros, index) if isinstance(self.zeros, Tensor) else self.zeros,
            minima=None if self.minima is None else _rows(self.minima, index),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Float8Matrix:
    """Values of 8 bits ([N, K] float8) times a scale: `w = code * scale`.

    `scales` [N, G] is for groups of ceil(K / G) columns; scales of blocks, rows or the whole tensor are expanded to
    that (`Tensor.expand` costs no memory). `arithmetic` as in `GroupMatrix`.
    """

    codes: Tensor
    scales: Tensor
    arithmetic: torch.dtype | None = None
    group_size: int | None = None

    by_row: ClassVar = frozenset({"codes", "scales"})

    def __post_init__(self) -> None:
        rows, columns = self.shape
        groups = math.ceil(columns / self.group_size) if self.group_size else self.scales.shape[-1]
        if tuple(self.scales.shape) != (rows, groups) or (self.group_size is None and columns % groups):
            raise LoadError(f"scales have shape {list(self.scales.shape)}; codes have {rows} rows, {columns} columns.")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return _held_bytes(self.codes) + _held_bytes(self.scales)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K], computed in `arithmetic`."""
        kind = self.arithmetic or self.scales.dtype
        values = float8_values(self.codes, kind)
        rows, columns = self.shape
        size = self.group_size or columns // self.scales.shape[1]
        whole = columns // size
        scales = self.scales.to(kind)
        values[:, : whole * size].view(rows, whole, size).mul_(scales[:, :whole].unsqueeze(2))
        values[:, whole * size :].mul_(scales[:, whole:])
        return values.to(dtype)

    def select_rows(self, index: Tensor | slice) -> "Float8Matrix":
        """The rows that `index` names, with their scales."""
        return replace(self, codes=_rows(self.codes, index), scales=_rows(self.scales, index))


@dataclass(frozen=True, slots=True, eq=False)
class CodebookMatrix:
    """Codes of 4 bits that name one of 16 values (nf4, mxfp4): `w = values[code] * scale`.

    `codes` [N, K / 2] as in `GroupMatrix`, `values` [16], `scales` [N, G], `arithmetic` as there. `rounded_to`: the
    type that the product is rounded to, whatever type is asked for.
    """

    codes: Tensor
    values: Tensor
    scales: Tensor
    arithmetic: torch.dtype | None = None
    rounded_to: torch.dtype | None = None

    by_row: ClassVar = frozenset({"codes", "scales"})

    def __post_init__(self) -> None:
        rows, columns = self.shape
        groups = self.scales.shape[-1]
        if self.values.shape != (16,) or tuple(self.scales.shape) != (rows, groups) or columns % groups:
            raise LoadError(
                f"scales have shape {list(self.scales.shape)} and values {list(self.values.shape)}; codes have {rows} "
                f"rows and {columns} columns."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] * 2

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and the codebook."""
        return _held_bytes(self.codes) + _held_bytes(self.scales) + _held_bytes(self.values)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values [N, K], computed in `arithmetic`."""
        kind = self.arithmetic or self.scales.dtype
        grouped = codebook_values(self.codes, self.values.to(kind)).view(*self.scales.shape, -1)
        product = grouped.mul_(self.scales.to(kind).unsqueeze(2)).view(self.shape)
        return product.to(self.rounded_to or kind).to(dtype)

    def select_rows(self, index: Tensor | slice) -> "CodebookMatrix":
        """The rows that `index` names, with their scales."""
        return replace(self, codes=_rows(self.codes, index), scales=_rows(self.scales, index))


def pack_halves(codes: Tensor) -> Tensor:
    """Codes 0 to 15 [N, K], K even, two in a byte: column 2j in the low half of byte j. [N, K / 2] uint8."""
    codes = codes.to(torch.uint8)
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_halves(packed: Tensor) -> Tensor:
    """The inverse of `pack_halves`: [N, K / 2] uint8 -> [N, K] uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)


def stack_rows(parts: Sequence[Matrix]) -> Matrix | None:
    """One matrix with the rows of all `parts` in order, None where their layouts differ."""
    first = parts[0]
    if len(parts) == 1:
        return first
    by_row = getattr(first, "by_row", None)
    if by_row is None or not all(type(each) is type(first) for each in parts):
        return None
    changes: dict[str, Tensor] = {}
    for field in fields(first):  # type: ignore[arg-type]
        values = [getattr(each, field.name) for each in parts]
        if field.name in by_row and all(_can_join(values[0], value) for value in values):
            changes[field.name] = torch.cat(values)
        elif not all(_is_same(values[0], value) for value in values):
            return None
    return replace(first, **changes)  # type: ignore[type-var]


def _can_join(one: object, other: object) -> bool:
    is_joined = isinstance(one, Tensor) and isinstance(other, Tensor)
    return is_joined and one.dtype == other.dtype and one.shape[1] == other.shape[1]  # type: ignore[attr-defined]


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def _rows(tensor: Tensor, index: Tensor | slice) -> Tensor:
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index.to(tensor.device))


def _held_bytes(tensor: Tensor) -> int:
    """Bytes in memory: what `expand` repeats counts once."""
    held = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(held) * tensor.itemsize
