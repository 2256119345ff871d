"""Layers whose input is rounded to int8 as it comes, each row by its own largest value (W8A8).

Codes of weights and inputs are multiplied as whole numbers, which is exact, and faster than floats where the CPU has
instructions for it. Source: vllm-project/vllm, csrc/quantization/w8a8 (dynamic per-token quantization: the scale is
the largest magnitude / 127).
"""

import torch
from torch import Tensor

from servery.engine.quantization.matrix import GroupMatrix

_SMALLEST = torch.finfo(torch.float32).tiny


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [rows, K] from -127 to 127 and scales float32 [rows, 1]: x is nearly codes * scales."""
    values = x.float()
    scales = values.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=_SMALLEST)
    return (values / scales).round_().to(torch.int8), scales


def has_channel_codes(matrix: GroupMatrix) -> bool:
    """Whether the matrix has one code of a signed byte for each value and one scale for each row."""
    return matrix.codes.dtype == torch.int8 and matrix.num_groups == 1 and matrix.minima is None


class RoundedLinear:
    """`round(x) @ weight.T + bias` for a weight of int8 codes with a scale, perhaps a zero point, for each row."""

    __slots__ = ("_codes", "_scales", "_zeros", "bias", "matrix")

    def __init__(self, matrix: GroupMatrix, bias: Tensor | None = None) -> None:
        self.matrix = matrix
        self.bias = bias
        self._codes = matrix.codes.t()
        self._scales = (matrix.scales.float() * matrix.unit).t()
        zeros = matrix.zeros
        self._zeros = zeros.int().t() if isinstance(zeros, Tensor) else zeros

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.matrix.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        codes, scales = rounded_rows(x)
        products = torch._int_mm(codes, self._codes)  # noqa: SLF001 torch has no other name for it
        if isinstance(self._zeros, Tensor) or self._zeros:
            products = products - codes.sum(dim=1, keepdim=True, dtype=torch.int32) * self._zeros
        y = products.float().mul_(self._scales).mul_(scales).to(x.dtype)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)
