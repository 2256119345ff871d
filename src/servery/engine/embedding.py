"""The first layer: a row of a matrix for each token."""

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.quantization.matrix import DenseMatrix, Matrix


class Embedding:
    """Rows [hidden_size] of a matrix [vocab_size, hidden_size] in any layout, as `dtype`; `dense` if it is of numbers."""

    __slots__ = ("_dtype", "_matrix", "dense")

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        self._matrix = matrix
        self._dtype = dtype
        self.dense = matrix.weight if isinstance(matrix, DenseMatrix) else None

    @property
    def nbytes(self) -> int:
        """What the matrix holds in memory."""
        return self._matrix.nbytes

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] -> [tokens, hidden_size]. A matrix with codes gives up only the rows that are asked for."""
        if self.dense is not None:
            return F.embedding(ids, self.dense).to(self._dtype)
        return self._matrix.select_rows(ids).dequantize(self._dtype)
