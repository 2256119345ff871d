"""A weight in codes as the kernels read it, and what is computed with it."""

import math
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from servery.engine.cuda.attention import multiprocessors
from servery.engine.cuda.kernels import weights as kernels
from servery.engine.cuda.product_tiles import FEW_ROWS, ProductTile
from servery.engine.quantization.matrix import CodebookMatrix, DenseMatrix, Float8Matrix, GroupMatrix, Matrix
from servery.engine.quantization.nested_matrix import NestedMatrix

_LEAST_DEPTH = (
    32  # columns of x and weight that a tile has at least: tensor cores multiply 16, and halves are read apart
)
_MOST_DEPTH = 128
_SUM_BLOCK = 1024
_LAYOUT_NAMES = {
    kernels.DENSE.value: "dense",
    kernels.INT8.value: "int8",
    kernels.INT4.value: "int4",
    kernels.FP8.value: "fp8",
    kernels.CODEBOOK.value: "codebook",
}


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight:
    """Codes [n, k] in a layout of `kernels.weights`; scales, zeros and minima are [groups, n], or None.

    `unit` is what all values are multiplied by at last.
    """

    stored: Tensor
    shape: tuple[int, int]
    layout: int
    group: int
    scales: Tensor | None = None
    zeros: Tensor | None = None
    zero: int = 0
    minima: Tensor | None = None
    book: Tensor | None = None
    unit: float = 1.0

    @classmethod
    def of(cls, matrix: Matrix) -> "CodedWeight | None":
        """The weight of a matrix on the device; None for layouts that the kernels do not read."""
        if isinstance(matrix, NestedMatrix):
            matrix = matrix.grouped()
        rows, columns = matrix.shape
        if isinstance(matrix, DenseMatrix):
            return cls.dense(matrix.weight)
        if isinstance(matrix, GroupMatrix) and matrix.order is None:
            made = _of_groups(matrix)
        elif isinstance(matrix, Float8Matrix) and columns % matrix.scales.shape[1] == 0:
            group = matrix.group_size or columns // matrix.scales.shape[1]
            made = cls(matrix.codes.view(torch.int8), (rows, columns), kernels.FP8.value, group, _turned(matrix.scales))
        elif isinstance(matrix, CodebookMatrix):
            group = columns // matrix.scales.shape[1]
            book = matrix.values.float().contiguous()
            scales = _turned(matrix.scales)
            made = cls(matrix.codes, (rows, columns), kernels.CODEBOOK.value, group, scales, book=book)
        else:
            return None
        return made if made.has_even_groups else None

    @classmethod
    def dense(cls, weight: Tensor) -> "CodedWeight":
        """The values [n, k] as they are."""
        n, k = weight.shape
        return cls(weight.contiguous(), (n, k), kernels.DENSE.value, k)

    @property
    def layout_name(self) -> str:
        """What the layout is called where tiles are chosen for it."""
        return _LAYOUT_NAMES[self.layout]

    @property
    def has_even_groups(self) -> bool:
        """Whether whole tiles lie in a group each."""
        return self.group == self.shape[1] or self.group % _LEAST_DEPTH == 0

    @property
    def depth(self) -> int:
        """How many columns a tile has: as many as divide a group."""
        if self.group == self.shape[1]:
            return _MOST_DEPTH
        return next(depth for depth in (_MOST_DEPTH, 64, _LEAST_DEPTH) if self.group % depth == 0)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and of what belongs to them."""
        parts = (self.stored, self.scales, self.zeros, self.minima, self.book)
        return sum(part.nbytes for part in parts if part is not None)

    def product(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        *,
        tile: ProductTile | None = None,
        splits: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """`x @ w.T + bias` [rows, n] for x [rows, k], as `dtype` (None: that of x); codes are not written anywhere.

        The sum over k is cut into `splits`, None: as many as fill the device.
        """
        (n, _), rows = self.shape, len(x)
        x = x if x.stride(1) == 1 else x.contiguous()
        tile = tile or FEW_ROWS[0]
        if rows > tile.rows and splits is None:
            tile = replace(tile, rows=min(64, triton.next_power_of_2(rows)))
        splits = splits or self.splits(rows, tile, x.device)
        grid = (triton.cdiv(n, tile.columns), triton.cdiv(rows, tile.rows), splits)
        out = x.new_empty(rows, n, dtype=dtype or x.dtype)
        target = out if splits == 1 else x.new_empty(splits, rows, n, dtype=torch.float32)
        kernels.multiply[grid](
            target,
            x,
            *self.arguments,
            bias,
            rows,
            x.stride(0),
            self.unit,
            SPLITS=splits,
            S=self.kernel_shape(tile),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        if splits > 1:
            kernels.sum_splits[(rows, triton.cdiv(n, _SUM_BLOCK))](
                out, target, bias, rows, SPLITS=splits, N=n, BLOCK=_SUM_BLOCK
            )
        return out

    def splits(self, rows: int, tile: ProductTile, device: torch.device) -> int:
        """Into how many parts the sum over k is cut so that the device is full: a power of 2, of some tiles each."""
        programs = triton.cdiv(self.shape[0], tile.columns) * triton.cdiv(rows, tile.rows)
        wanted = 4 * multiprocessors(device) / programs
        most = self.shape[1] // (4 * self.depth)
        return 1 if wanted < 2 or most < 2 else 1 << int(math.log2(min(wanted, most, 16)))

    def values(self, dtype: torch.dtype) -> Tensor:
        """The values [n, k]: for so many rows of x that turning them into numbers once is quicker."""
        n, k = self.shape
        if self.layout == kernels.DENSE.value:
            return self.stored.to(dtype)
        out = torch.empty(n, k, dtype=dtype, device=self.stored.device)
        shape = self.kernel_shape(ProductTile(16, 32))
        kernels.decode[(triton.cdiv(n, 32), triton.cdiv(k, shape.depth))](out, *self.arguments, self.unit, S=shape)
        return out

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """Weight, codebook, scales, zeros and minima; where there is none, something that is not read."""
        parts = (self.stored, self.book, self.scales, self.zeros, self.minima)
        return tuple(self.stored if part is None else part for part in parts)

    def kernel_shape(self, tile: ProductTile) -> kernels.WeightShape:
        """What the kernels are compiled for."""
        return kernels.WeightShape(
            n=self.shape[0],
            k=self.shape[1],
            layout=self.layout,
            group=self.group,
            zero=self.zero,
            has_zeros=self.zeros is not None,
            has_minima=self.minima is not None,
            rows=tile.rows,
            columns=tile.columns,
            depth=self.depth,
        )


def _of_groups(matrix: GroupMatrix) -> CodedWeight:
    """Unsigned codes of 8 bits become signed ones, with a zero point that is 128 lower."""
    lower = 128 if matrix.codes.dtype == torch.uint8 and matrix.bits == 8 else 0
    zeros = matrix.zeros
    # GGUF's form has no zero point beside its minimum, but its codes may be unsigned.
    return CodedWeight(
        stored=(matrix.codes ^ 128).view(torch.int8) if lower else matrix.codes,
        shape=matrix.shape,
        layout=kernels.INT4.value if matrix.bits == 4 else kernels.INT8.value,
        group=matrix.group_size,
        scales=_turned(matrix.scales),
        zeros=_turned(zeros.to(torch.int16) - lower).to(torch.int16)
        if isinstance(zeros, Tensor) and lower
        else _zeros(zeros),
        zero=0 if isinstance(zeros, Tensor) else zeros - lower,
        minima=None if matrix.minima is None else _turned(matrix.minima),
        unit=matrix.unit,
    )


def _zeros(zeros: Tensor | int) -> Tensor | None:
    return (
        _turned(zeros.to(torch.int16 if zeros.dtype != torch.uint8 else torch.uint8))
        if isinstance(zeros, Tensor)
        else None
    )


def _turned(by_row: Tensor) -> Tensor:
    """[n, groups] -> [groups, n] in memory."""
    return by_row.t().contiguous()
