"""A linear layer as the decoder calls it: one matrix, perhaps a bias, no state."""

import torch
from torch import Tensor


class Linear:
    """`x @ weight.T + bias` for x [rows, in_features] and weight [out_features, in_features]."""

    __slots__ = ("_transposed", "bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._transposed = weight.t()

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self.bias is None:
            return torch.mm(x, self._transposed)
        return torch.addmm(self.bias, x, self._transposed)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)` in one pass over the result; `residual` [rows, out_features] is left alone."""
        if self.bias is not None:
            residual = residual + self.bias
        return torch.addmm(residual, x, self._transposed)
