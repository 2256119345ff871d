"""Linear layers on a GPU: codes are multiplied as they are for few rows; for many they are turned into what cuBLAS takes.

With few rows a step waits for weights to be read, and fewer bytes are all that counts. With many it waits for tensor
cores, which want whole tiles of numbers; turning a weight into numbers is then a small part of the work.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.kernels import weights as kernels
from servery.engine.cuda.measured import DENSE, Measured
from servery.engine.cuda.product_tiles import INVARIANT
from servery.engine.cuda.rowwise import rounded_to_float8
from servery.engine.quantization.matrix import DenseMatrix, GroupMatrix, Matrix
from servery.engine.rounded_linear import has_channel_codes, rounded_rows

# torch's product of int8 takes more rows than that, and sizes that are multiples of 8; that of float8 of 16.
_INT_MM_ROWS, _INT_MM_MULTIPLE, _FLOAT8_MULTIPLE = 16, 8, 16
_HOPPER = (9, 0)


@dataclass(frozen=True, slots=True)
class LinearOptions:
    """Which way is taken by how many rows, as was `measured`, or whatever their number: `invariant`."""

    measured: Measured = field(default_factory=Measured)
    invariant: bool = False


def coded_linear(
    matrix: Matrix, bias: Tensor | None, options: LinearOptions
) -> "CodedLinear | RoundedCodedLinear | None":
    """The layer for a matrix on the device; None where torch's own is as good, or there is no kernel for the layout."""
    if isinstance(matrix, DenseMatrix) and not (options.invariant or DENSE in options.measured.product):
        return None
    weight = CodedWeight.of(matrix)
    if weight is None:
        return None
    if isinstance(matrix, GroupMatrix) and matrix.rounds_input:
        is_whole = has_channel_codes(matrix) and not isinstance(matrix.zeros, Tensor) and matrix.zeros == 0
        return RoundedCodedLinear(weight, bias, options) if is_whole else None
    return CodedLinear(weight, bias, options)


def invariant_product(weight: Tensor, bias: Tensor | None) -> "CodedLinear":
    """A dense product in which a row's result depends on that row alone."""
    return CodedLinear(CodedWeight.dense(weight), bias, LinearOptions(invariant=True))


class CodedLinear:
    """`x @ weight.T + bias` for a weight in codes."""

    __slots__ = ("_many_rows", "_options", "_splits", "_tile", "_weight", "bias")

    def __init__(self, weight: CodedWeight, bias: Tensor | None, options: LinearOptions) -> None:
        self._weight = weight
        self._options = options
        self._many_rows = options.measured.rows_of(weight.layout_name)
        self._tile = options.measured.product.get(weight.layout_name)
        self._splits = weight.splits(INVARIANT.rows, INVARIANT, weight.stored.device)
        self.bias = bias

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._weight.shape

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self._options.invariant:
            return self._weight.product(x, self.bias, tile=INVARIANT, splits=self._splits)
        if len(x) < self._many_rows:
            return self._weight.product(x, self.bias, tile=self._tile)
        if self._takes_float8(x):
            return self._float8_product(x)
        values = self._weight.values(x.dtype).t()
        return torch.mm(x, values) if self.bias is None else torch.addmm(self.bias, x, values)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self(x).add_(residual)

    def _takes_float8(self, x: Tensor) -> bool:
        """Whether this GPU multiplies float8, and the weight has a scale for each row."""
        n, k = self._weight.shape
        is_float8 = self._weight.layout == kernels.FP8.value and self._weight.group == k
        fits = n % _FLOAT8_MULTIPLE == 0 and k % _FLOAT8_MULTIPLE == 0 and x.dtype == torch.bfloat16
        return is_float8 and fits and x.is_cuda and torch.cuda.get_device_capability(x.device) >= _HOPPER

    def _float8_product(self, x: Tensor) -> Tensor:
        """Rows of x are rounded to float8 too, each by its own largest magnitude."""
        assert self._weight.scales is not None
        codes, scales = rounded_to_float8(x)
        weight = self._weight.stored.view(torch.float8_e4m3fn).t()
        by_row = self._weight.scales.float() * self._weight.unit
        y: Tensor = torch._scaled_mm(  # noqa: SLF001 torch has no other name for it
            codes, weight, scale_a=scales, scale_b=by_row, out_dtype=x.dtype, use_fast_accum=True
        )
        return y if self.bias is None else y.add_(self.bias)


class RoundedCodedLinear:
    """`round(x) @ weight.T + bias` for int8 codes with a scale for each row: the input is rounded to int8, row by row."""

    __slots__ = ("_many_rows", "_options", "_scales", "_splits", "_tile", "_weight", "bias")

    def __init__(self, weight: CodedWeight, bias: Tensor | None, options: LinearOptions) -> None:
        assert weight.scales is not None
        self._weight = weight
        self._options = options
        self._many_rows = options.measured.rows_of(weight.layout_name)
        self._tile = options.measured.product.get(weight.layout_name)
        self._scales = weight.scales.float() * weight.unit  # [1, n]
        self._splits = weight.splits(INVARIANT.rows, INVARIANT, weight.stored.device)
        self.bias = bias

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._weight.shape

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self._weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        codes, scales = rounded_rows(x)
        (n, k), is_many = self._weight.shape, len(x) >= max(self._many_rows, _INT_MM_ROWS + 1)
        if is_many and not self._options.invariant and n % _INT_MM_MULTIPLE == k % _INT_MM_MULTIPLE == 0:
            products = torch._int_mm(codes, self._weight.stored.t()).float().mul_(self._scales)  # noqa: SLF001
        else:
            tile, splits = (INVARIANT, self._splits) if self._options.invariant else (self._tile, None)
            # Whole numbers up to 127, which bfloat16 holds.
            given = codes.to(torch.bfloat16)
            products = self._weight.product(given, tile=tile, splits=splits, dtype=torch.float32)
        y = products.mul_(scales).to(x.dtype)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self(x).add_(residual)
