"""Processes that compute together, by torch.distributed: sums and collections over those that share layers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from servery.engine.parallel.part import Ranks

# torch 2.13 gave it another name, and warns of the one of before.
_all_gather: Callable[..., object] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
# How often a sum is taken to measure what it costs.
_TRIALS = 5


@dataclass(frozen=True, slots=True)
class SumCost:
    """What a sum over the team takes, in seconds, of one token's hidden state and of `tokens` of them."""

    one_s: float
    many_s: float
    tokens: int


class Team:
    """The processes that have the other parts of the same layers; and, on the way of a step, those around it."""

    def __init__(self, ranks: Ranks) -> None:
        """To be told of its group, by `meet`, before anything is computed."""
        self.ranks = ranks
        self._group: dist.ProcessGroup | None = None

    def join(self, group: dist.ProcessGroup | None) -> None:
        """All processes have met; `group` are those with the same layers."""
        self._group = group

    @property
    def size(self) -> int:
        """How many share the layers."""
        return self.ranks.tensor

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' `values`, in their place."""
        if self.size > 1:
            dist.all_reduce(values, group=self._group)
        return values

    def collect(self, values: Tensor) -> Tensor:
        """All processes' `values` [R, N], side by side: [R, size * N]."""
        if self.size == 1:
            return values
        parts = values.new_empty((self.size, *values.shape))
        _all_gather(parts.flatten(0, 1), values.contiguous(), group=self._group)
        return parts.transpose(0, 1).reshape(len(values), -1)

    def share(self, values: Tensor) -> Tensor:
        """`values` of the first process of the team, in place of the others'."""
        if self.size > 1:
            dist.broadcast(values, src=self.ranks.stage * self.size, group=self._group)
        return values

    def pass_on(self, values: Tensor) -> None:
        """Hand `values` to the next stage; the last one's next is the first."""
        dist.send(values.contiguous(), dst=(self.ranks.rank + self.size) % self.ranks.count)

    def take(self, values: Tensor) -> Tensor:
        """Fill `values` with what the stage before hands on."""
        dist.recv(values, src=(self.ranks.rank - self.size) % self.ranks.count)
        return values

    def measure(self, hidden_size: int, tokens: int, dtype: torch.dtype, device: torch.device) -> SumCost:
        """Measure sums; all of the team have to call it at the same time."""
        one, many = (_seconds(self, torch.zeros(rows, hidden_size, dtype=dtype, device=device)) for rows in (1, tokens))
        return SumCost(one, many, tokens)


def _seconds(team: Team, values: Tensor) -> float:
    best = float("inf")
    for _ in range(_TRIALS):
        _wait(values.device)
        started = time.perf_counter()
        team.sum(values)
        _wait(values.device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
