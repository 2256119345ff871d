"""What stands between matrix products, in each way that there is to compute it: the quickest is found by measurement."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from servery.engine.cuda.rowwise import FusedNorm, gated
from servery.engine.mlp import combination
from servery.engine.norm import RMSNorm
from servery.engine.traits import Clamp

# The parts: the residual sum with its norm; norms of heads, rotation and the way into the cache; gates.
NORM, ROTATION, GATE = "norm", "rotation", "gate"
# The ways: one launch of ours, torch's operations, or what torch.compile makes of these. Rotation has no third.
TRITON, TORCH, COMPILED = "triton", "torch", "compiled"
WAYS = {NORM: (TRITON, TORCH, COMPILED), ROTATION: (TRITON, TORCH), GATE: (TRITON, TORCH, COMPILED)}

Rows = Callable[[Tensor], Tensor]
Summing = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def summing(norm: RMSNorm, way: str) -> Summing:
    """What gives the norm of a sum, and the sum: of `hidden` [rows, size] and a part of that shape, if there is one."""
    if way == TRITON:
        return FusedNorm(norm.scaled, float(norm.floor))
    if way == COMPILED:
        scaled, floor = norm.scaled, float(norm.floor)
        return lambda hidden, part: _compiled_sum()(hidden, part, scaled, floor)
    return summing_in_torch(norm)


def summing_in_torch(norm: Rows | None) -> Summing:
    """As `summing`, for any norm, or none."""

    def summed_up(hidden: Tensor, part: Tensor | None = None) -> tuple[Tensor, Tensor]:
        summed = hidden if part is None else hidden + part
        return (summed if norm is None else norm(summed)), summed

    return summed_up


def gating(activation: str | Clamp, way: str) -> Rows:
    """`activation(gate) * up` [rows, size] for [rows, 2 * size], as `GatedMLP` combines them."""
    if way == TRITON:
        return lambda gate_up: gated(gate_up, activation)
    return _compiled_gate(activation) if way == COMPILED else combination(activation)


@cache
def _compiled_sum() -> Callable[..., tuple[Tensor, Tensor]]:
    """Compiled once for all norms of a model."""
    return torch.compile(_add_and_normalize, dynamic=True)


@cache
def _compiled_gate(activation: str | Clamp) -> Rows:
    combine = combination(activation)

    def combined(gate_up: Tensor) -> Tensor:
        return combine(gate_up)

    return torch.compile(combined, dynamic=True)


def _add_and_normalize(hidden: Tensor, part: Tensor | None, scaled: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    summed = hidden if part is None else hidden + part
    x = summed.float()
    normed = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + floor * floor) * scaled
    return normed.to(hidden.dtype), summed
