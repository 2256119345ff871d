"""A linear layer as the decoder calls it: one matrix in some layout, perhaps a bias, no state."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from servery.engine.native.library import NativeContext
from servery.engine.native.linear import native_linear, native_stack
from servery.engine.packed_linear import Int4Linear, Int8Linear
from servery.engine.quantization.matrix import DenseMatrix, GroupMatrix, Matrix, stack_rows
from servery.engine.quantization.matrix_parts import device_of
from servery.engine.rounded_linear import RoundedLinear, has_channel_codes, rounded_rows

# Values that are dequantized at a time: as bfloat16 half a MiB, which stays in a core's own cache until it is used.
TILE_VALUES = 1 << 18
# On a GPU a tile has to be large enough to keep all of it busy.
DEVICE_TILE_VALUES = 1 << 26


class Linear(Protocol):
    """`x @ weight.T + bias` for x [rows, in_features]."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        ...

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features], a tensor of its own."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` [rows, out_features] is left alone."""
        ...


class LinearKernels(Protocol):
    """Kernels of a device for linear layers."""

    def linear(self, matrix: Matrix, bias: Tensor | None, dtype: torch.dtype) -> Linear | None:
        """The layer, for inputs of type `dtype`; None where there is no kernel for the layout."""
        ...


def linear_of(
    parts: Sequence[Matrix],
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    native: NativeContext | None = None,
    kernels: LinearKernels | None = None,
) -> Linear:
    """The layer whose weight has the rows of all `parts`, in order; its inputs will be of type `dtype`.

    `native`, or a device's `kernels`, compute it if they have a kernel for the layout, else torch does.
    """
    if native is not None and (stacked := native_stack(native, parts, bias)) is not None:
        return stacked
    matrix = stack_rows(parts)
    if matrix is not None:
        return _single(matrix, bias, dtype, native, kernels)
    rows = [part.shape[0] for part in parts]
    biases: Sequence[Tensor | None] = [None] * len(parts) if bias is None else torch.split(bias, rows)
    pairs = zip(parts, biases, strict=True)
    return StackedLinear([_single(part, each, dtype, native, kernels) for part, each in pairs])


def _single(
    matrix: Matrix,
    bias: Tensor | None,
    dtype: torch.dtype,
    native: NativeContext | None,
    kernels: LinearKernels | None,
) -> Linear:
    compiled: Linear | None = None if native is None else native_linear(native, matrix, bias)
    if kernels is not None:
        compiled = kernels.linear(matrix, bias, dtype)
    return compiled or _in_torch(matrix, bias, dtype)


def _in_torch(matrix: Matrix, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    if isinstance(matrix, DenseMatrix):
        return DenseLinear(matrix.weight, bias)
    if device_of(matrix).type != "cpu":  # torch's operations on codes are laid out for CPUs
        return QuantizedLinear(matrix, bias, DEVICE_TILE_VALUES)
    if isinstance(matrix, GroupMatrix) and matrix.rounds_input and has_channel_codes(matrix):
        return RoundedLinear(matrix, bias)
    if isinstance(matrix, GroupMatrix) and not matrix.rounds_input:
        if Int8Linear.takes(matrix, dtype):
            return Int8Linear(matrix, bias, dtype)
        if dtype == torch.bfloat16 and Int4Linear.takes(matrix):
            return Int4Linear(matrix, bias)
    return QuantizedLinear(matrix, bias)


class DenseLinear:
    """A weight [out_features, in_features] as it is."""

    __slots__ = ("_transposed", "bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._transposed = weight.t()

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + _nbytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self.bias is None:
            return torch.mm(x, self._transposed)
        return torch.addmm(self.bias, x, self._transposed)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)` in one pass over the result."""
        if self.bias is not None:
            residual = residual + self.bias
        return torch.addmm(residual, x, self._transposed)


class QuantizedLinear:
    """A weight that stays packed: a tile of rows is dequantized, multiplied and dropped."""

    __slots__ = ("_rounds_input", "_tiles", "bias", "matrix")

    def __init__(self, matrix: Matrix, bias: Tensor | None = None, tile_values: int = TILE_VALUES) -> None:
        rows, columns = matrix.shape
        step = max(1, tile_values // columns)
        self.matrix = matrix
        self.bias = bias
        self._rounds_input = isinstance(matrix, GroupMatrix) and matrix.rounds_input
        self._tiles = [matrix.select_rows(slice(first, min(first + step, rows))) for first in range(0, rows, step)]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.matrix.nbytes + _nbytes(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self._rounds_input:
            codes, scales = rounded_rows(x)
            x = (codes * scales).to(x.dtype)
        y = torch.cat([torch.mm(x, tile.dequantize(x.dtype).t()) for tile in self._tiles], dim=1)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)


class StackedLinear:
    """Layers over the same input whose layouts differ; their outputs stand side by side."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Linear]) -> None:
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        return torch.cat([part(x) for part in self.parts], dim=1)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)


def _nbytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes
