"""Multi-head latent attention in its absorbed form (arXiv 2405.04434, section 2.1).

A head's keys and values are linear in the cached latent c: k = K c and v = V c. So a query q is compared with c itself
after K^T q, and V is applied to the weighted sum of latents. The decoder then has attention with one key head, whose
values are its keys, and nothing but latents is cached. With many tokens a step this is more arithmetic than making
every head's keys and values anew, and with few it reads several times fewer bytes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from servery.engine.latent_config import LatentConfig
from servery.engine.linear import Linear
from servery.engine.norm import RMSNorm
from servery.engine.rope import rotate

# That of the norms of latents, whatever a checkpoint says of the others.
LATENT_NORM_EPS = 1e-6


class LatentProjection:
    """Queries as the cached latents are compared with, and the latents.

    `down` has the rows of the queries, or of their latent, and then those of what is cached. `key_up`
    [heads, key_dim, kv_rank] is K.
    """

    __slots__ = ("_key_up", "_kv_norm", "_latent", "_query_norm", "_query_up", "down")

    def __init__(
        self,
        latent: LatentConfig,
        down: Linear,
        query_norm: RMSNorm | None,
        query_up: Linear | None,
        kv_norm: RMSNorm,
        key_up: Tensor,
    ) -> None:
        self._latent = latent
        self.down = down
        self._query_norm = query_norm
        self._query_up = query_up
        self._kv_norm = kv_norm
        self._key_up = key_up

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        parts = (self.down, self._query_norm, self._query_up, self._kv_norm, self._key_up)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads * width] and rows of the cache [tokens, width] for `x` [tokens, hidden_size]."""
        rank, down = self._latent.kv_rank, self.down(x)
        query, stored = down[:, : -self._latent.width], down[:, -self._latent.width :]
        latents = torch.empty_like(stored)
        latents[:, :rank] = self._kv_norm(stored[:, :rank])
        rotate(stored[:, rank:].unsqueeze(1), cos, sin, out=latents[:, rank:].unsqueeze(1))
        return self._absorbed(query, cos, sin), latents

    def _absorbed(self, query: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """K^T q beside the rotated part, for each head."""
        latent = self._latent
        if self._query_norm is not None and self._query_up is not None:
            query = self._query_up(self._query_norm(query))
        heads = query.view(len(query), -1, latent.query_dim)
        absorbed = heads.new_empty(*heads.shape[:2], latent.width)
        fixed = torch.bmm(heads[..., : latent.key_dim].transpose(0, 1), self._key_up)
        absorbed[..., : latent.kv_rank] = fixed.transpose(0, 1)
        rotate(heads[..., latent.key_dim :], cos, sin, out=absorbed[..., latent.kv_rank :])
        return absorbed.flatten(1)


class LatentOutput:
    """What follows attention over latents: V of each head, then the output projection. A linear layer to the decoder.

    `value_up` [heads, kv_rank, value_dim] is V, transposed.
    """

    __slots__ = ("_value_up", "output")

    def __init__(self, value_up: Tensor, output: Linear) -> None:
        self._value_up = value_up
        self.output = output

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return self._value_up.nbytes + self.output.nbytes

    def adapted(self, wrap: Callable[[str, Linear], Linear]) -> "LatentOutput":
        """The same over what `wrap` makes of the output projection, given its name."""
        return LatentOutput(self._value_up, wrap("output", self.output))

    def __call__(self, x: Tensor) -> Tensor:
        """Sums of latents [tokens, heads * width] -> [tokens, hidden_size]."""
        return self.output(self._values(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self.output.add_to(residual, self._values(x))

    def _values(self, x: Tensor) -> Tensor:
        num_heads, rank, _ = self._value_up.shape
        latents = x.view(len(x), num_heads, -1)[..., :rank]
        return torch.bmm(latents.transpose(0, 1), self._value_up).transpose(0, 1).flatten(1)
