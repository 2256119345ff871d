"""Which experts a token goes to, and how much each of them counts."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.mixture_config import ExpertConfig
from servery.engine.traits import SIGMOID


class Router:
    """The `per_token` experts that score highest, by softmax (arXiv 2401.04088) or sigmoid (arXiv 2412.19437).

    Everything is float32: `weight` [experts, hidden_size], `bias` [experts], and `correction` [experts], which is added
    to scores when experts are chosen, not when they are weighed. A step's result for a row depends on that row only.
    """

    __slots__ = ("_bias", "_config", "_correction", "_product", "_weight")

    def __init__(
        self, config: ExpertConfig, weight: Tensor, correction: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        self._config = config
        self._weight = weight
        self._bias = bias
        self._correction = correction
        self._product: Callable[[Tensor], Tensor] = partial(F.linear, weight=weight, bias=bias)

    def multiplying(self, make: Callable[[Tensor, Tensor | None], Callable[[Tensor], Tensor]]) -> "Router":
        """The same with the product that `make` gives for weight and bias."""
        other = copy.copy(self)
        other._product = make(self._weight, self._bias)  # noqa: SLF001
        return other

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return sum(part.nbytes for part in (self._weight, self._bias, self._correction) if part is not None)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and numbers of the experts of each of `x` [rows, hidden_size], both [rows, per_token]."""
        logits = self._product(x.float())
        scores = logits.sigmoid() if self._config.scores == SIGMOID else logits.softmax(-1)
        chosen = self._eligible(scores).topk(self._config.per_token, dim=-1).indices
        weights = scores.gather(1, chosen)
        if self._config.normalizes:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights.mul_(self._config.scale).to(x.dtype), chosen

    def _eligible(self, scores: Tensor) -> Tensor:
        """What experts are chosen by, minus infinity for those outside of the best groups."""
        config = self._config
        scores = scores if self._correction is None else scores + self._correction
        if config.groups == 1:
            return scores
        grouped = scores.view(len(scores), config.groups, -1)
        ranks = grouped.topk(config.group_top, dim=-1).values.sum(-1)
        kept = ranks.topk(config.kept_groups, dim=-1).indices
        is_out = torch.ones_like(ranks, dtype=torch.bool).scatter_(1, kept, False)
        return grouped.masked_fill(is_out.unsqueeze(2), float("-inf")).view_as(scores)
