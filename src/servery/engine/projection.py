"""The first half of attention: what a layer's input becomes before it is compared."""

import copy
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from servery.engine.linear import Linear
from servery.engine.norm import RMSNorm, WideNorm
from servery.engine.rope import rotate


class Projection(Protocol):
    """Makes queries, and the row of the KV cache, of each token."""

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        ...

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads * head_dim] and rows of the cache, for `x` [tokens, hidden_size].

        `cos` and `sin` are what `RopeTable.at` gave.
        """


class HeadProjection:
    """Queries, keys and values by heads: queries and keys are rotated, the cache holds keys, then values.

    `qkv` has the rows of query, key and value; `qk_norm` works on query and key heads
    [tokens, heads + kv_heads, head_dim] alike, before they rotate, or after that if `norms_rotated`.
    """

    __slots__ = ("_head_dim", "_num_heads", "_num_kv_heads", "norms_rotated", "qk_norm", "qkv")

    def __init__(
        self,
        qkv: Linear,
        qk_norm: RMSNorm | WideNorm | None,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        norms_rotated: bool = False,
    ) -> None:
        self.qkv = qkv
        self.qk_norm = qk_norm
        self._num_heads = num_heads
        self._num_kv_heads = num_kv_heads
        self._head_dim = head_dim
        self.norms_rotated = norms_rotated

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return self.qkv.nbytes + (self.qk_norm.nbytes if self.qk_norm else 0)

    def adapted(self, wrap: Callable[[str, Linear], Linear]) -> "HeadProjection":
        """The same over what `wrap` makes of the linear, given its name."""
        other = copy.copy(self)
        other.qkv = wrap("qkv", self.qkv)
        return other

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads * head_dim] and keys, then values [tokens, 2 * kv_heads * head_dim]."""
        qkv = self.qkv(x)
        rotated = qkv.view(len(qkv), -1, self._head_dim)[:, : self._num_heads + self._num_kv_heads]
        norm, is_late = self.qk_norm, self.norms_rotated
        rotate(rotated if norm is None or is_late else norm(rotated), cos, sin, out=rotated)
        if norm is not None and is_late:
            rotated.copy_(norm(rotated))
        query_size = self._num_heads * self._head_dim
        return qkv[:, :query_size], qkv[:, query_size:]
