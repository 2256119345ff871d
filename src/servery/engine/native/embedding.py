"""The first layer of a model whose head has the same weights: rows are read from the head's panels."""

import torch
from torch import Tensor

from servery.engine.native.linear import NativeLinear


class PanelEmbedding:
    """Rows [hidden_size] of a packed matrix [vocab_size, hidden_size], as `dtype`."""

    __slots__ = ("_dtype", "head")

    def __init__(self, head: NativeLinear, dtype: torch.dtype) -> None:
        self.head = head
        self._dtype = dtype

    @property
    def nbytes(self) -> int:
        """What the panels hold in memory."""
        return self.head.nbytes

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] -> [tokens, hidden_size]."""
        return self.head.weight_rows(ids, self._dtype)
