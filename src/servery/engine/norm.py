"""Normalization of rows, of heads, and of all heads together."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * (offset + weight) over the last dimension (arXiv 1910.07467), computed in float32.

    It is computed as x / hypot(|x|, sqrt(n eps)) * (weight sqrt(n)): three passes, where the textbook order is six.
    `floor` is that root, `scaled` that weight, both float32.
    """

    __slots__ = ("_dtype", "floor", "scaled")

    def __init__(self, weight: Tensor, eps: float, offset: float = 0.0) -> None:
        size = weight.shape[-1]
        self._dtype = weight.dtype
        self.scaled = (weight.float() + offset) * math.sqrt(size)
        self.floor = torch.tensor(math.sqrt(size * eps), device=weight.device)

    @property
    def nbytes(self) -> int:
        """What the weight holds in memory: it is kept as float32."""
        return self.scaled.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`; any broadcast of the weight's shape."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        normed = (x / torch.hypot(length, self.floor)).mul_(self.scaled)
        return normed if self._dtype is torch.float32 else normed.to(self._dtype)


class CenteredNorm:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight over the last dimension (arXiv 1607.06450), in float32."""

    __slots__ = ("eps", "weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps

    @property
    def nbytes(self) -> int:
        """What the weight holds in memory."""
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`."""
        return F.layer_norm(x, self.weight.shape, self.weight, eps=self.eps)


class WideNorm:
    """One norm over all query heads together and one over all key heads together."""

    __slots__ = ("_num_heads", "key", "query")

    def __init__(self, query: RMSNorm, key: RMSNorm, num_heads: int) -> None:
        self.query = query
        self.key = key
        self._num_heads = num_heads

    @property
    def nbytes(self) -> int:
        """What both weights hold in memory."""
        return self.query.nbytes + self.key.nbytes

    def __call__(self, heads: Tensor) -> Tensor:
        """[tokens, heads + kv_heads, head_dim], the `num_heads` query heads first; gives the same shape."""
        query, key = heads[:, : self._num_heads], heads[:, self._num_heads :]
        return torch.cat((self.query(query.flatten(1)), self.key(key.flatten(1))), dim=1).view(heads.shape)


class Scaling:
    """A factor in the place of a norm."""

    __slots__ = ("factor",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`."""
        return x * self.factor
