"""A mixture of experts on a GPU: all experts of a step in two launches, whoever was chosen, and no look at the device."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from servery.engine.cuda.coded_weight import CodedWeight
from servery.engine.cuda.kernels import experts as kernels
from servery.engine.cuda.kernels.weights import DENSE
from servery.engine.cuda.product_tiles import ProductTile
from servery.engine.cuda.rowwise import gated
from servery.engine.mlp import SharedExpert
from servery.engine.quantization.matrix import Matrix
from servery.engine.router import Router
from servery.engine.traits import Clamp

_SORT_BLOCK = 1024
_SUM_BLOCK = 1024
_STACKED = ("stored", "scales", "zeros", "minima")
# From so many choices for each expert on, torch's grouped product of bfloat16 is quicker, on GPUs that have it.
_MANY_CHOICES = 64
_HOPPER = (9, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """Who was chosen: see `kernels.sort_choices`."""

    order: Tensor
    places: Tensor
    starts: Tensor
    per_row: int

    @classmethod
    def of(cls, chosen: Tensor, num_experts: int) -> "_Choices":
        count = chosen.numel()
        order, places = (torch.empty(count, dtype=torch.int32, device=chosen.device) for _ in range(2))
        starts = torch.empty(num_experts + 1, dtype=torch.int32, device=chosen.device)
        block = min(_SORT_BLOCK, triton.next_power_of_2(count))
        kernels.sort_choices[(num_experts,)](order, places, starts, chosen, count, num_experts, BLOCK=block)
        return cls(order, places, starts, chosen.shape[1])


class StackedWeight:
    """The weights of all experts for one of their products, and their biases [experts, n]."""

    __slots__ = ("_bias", "_num_experts", "_one")

    def __init__(self, weights: Sequence[CodedWeight], bias: Tensor | None) -> None:
        self._num_experts = len(weights)
        self._bias = bias
        # The first one's parts give way to those of all.
        changes: dict[str, Any] = {name: _stack([getattr(each, name) for each in weights]) for name in _STACKED}
        self._one = replace(weights[0], **changes)

    @classmethod
    def of(cls, parts: Sequence[tuple[Matrix, Tensor | None]]) -> "StackedWeight | None":
        """The weights of a (matrix, bias) of each expert; None where kernels do not read them, or they differ."""
        weights = [CodedWeight.of(matrix) for matrix, _ in parts]
        known = [weight for weight in weights if weight is not None]
        biases = [bias for _, bias in parts if bias is not None]
        is_alike = len(known) == len(weights) and all(_is_alike(each, known[0]) for each in known)
        if not is_alike or len(biases) not in {0, len(parts)}:
            return None
        return cls(known, torch.stack(biases) if biases else None)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights and biases."""
        return self._one.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def product(self, x: Tensor, choices: _Choices, per_row: int, *, invariant: bool) -> Tensor:
        """[choices, n] in the order of experts, for rows of x that are chosen `per_row` times each."""
        count = choices.order.numel()
        if not invariant and self._takes_grouped(x, count):
            return self._grouped(x, choices, per_row)
        one, rows = self._one, 64 if invariant else _rows_of_tile(count, self._num_experts)
        n, _ = one.shape
        out = x.new_empty(count, n)
        tile = ProductTile(rows, 64)
        grid = (triton.cdiv(n, tile.columns), count // rows + self._num_experts)
        kernels.multiply_chosen[grid](
            out,
            x,
            *one.arguments,
            self._bias,
            choices.order,
            choices.starts,
            len(x),
            self._num_experts,
            x.stride(0),
            one.unit,
            PER_ROW=per_row,
            GROUPS=one.shape[1] // one.group,
            S=one.kernel_shape(tile),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
        return out

    def _takes_grouped(self, x: Tensor, count: int) -> bool:
        is_plain = self._one.layout == DENSE.value and x.dtype == torch.bfloat16 and self._bias is None
        is_many = count >= _MANY_CHOICES * self._num_experts
        return is_plain and is_many and x.is_cuda and torch.cuda.get_device_capability(x.device) >= _HOPPER

    def _grouped(self, x: Tensor, choices: _Choices, per_row: int) -> Tensor:
        rows = x if per_row == 1 else x.index_select(0, choices.order // per_row)
        return F.grouped_mm(rows, self._one.stored.transpose(1, 2), offs=choices.starts[1:])


class GroupedExperts:
    """The sum of the experts that a router chooses for each token, by their weights, and of the shared expert.

    As `MixtureOfExperts`, in a number of launches that does not depend on the choices.
    """

    __slots__ = ("_activation", "_down", "_gate_up", "_invariant", "_num_experts", "_router", "_shared")

    def __init__(
        self,
        router: Router,
        gate_up: StackedWeight,
        down: StackedWeight,
        activation: str | Clamp,
        shared: SharedExpert | None,
        *,
        num_experts: int,
        invariant: bool,
    ) -> None:
        self._router = router
        self._gate_up = gate_up
        self._down = down
        self._activation = activation
        self._shared = shared
        self._num_experts = num_experts
        self._invariant = invariant

    @property
    def nbytes(self) -> int:
        """What the weights of router and experts hold in memory."""
        shared = 0 if self._shared is None else self._shared.nbytes
        return self._router.nbytes + shared + self.expert_bytes

    @property
    def expert_bytes(self) -> int:
        """What the experts hold in memory, without the shared one."""
        return self._gate_up.nbytes + self._down.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        weights, chosen = self._router(x)
        choices = _Choices.of(chosen.contiguous(), self._num_experts)
        per_row = choices.per_row
        gate_up = self._gate_up.product(x, choices, per_row, invariant=self._invariant)
        # From here on rows are choices, in the order of experts.
        sorted_choices = replace(choices, order=torch.arange(len(gate_up), dtype=torch.int32, device=x.device))
        parts = self._down.product(gated(gate_up, self._activation), sorted_choices, 1, invariant=self._invariant)
        mixed = x.new_empty(x.shape)
        kernels.sum_chosen[(len(x), triton.cdiv(x.shape[1], _SUM_BLOCK))](
            mixed, parts, choices.places, weights.contiguous(), SIZE=x.shape[1], PER_ROW=per_row, BLOCK=_SUM_BLOCK
        )
        return mixed if self._shared is None else mixed.add_(self._shared(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return residual + self(x)


def _rows_of_tile(count: int, num_experts: int) -> int:
    """About as many rows as an expert has choices, so that few are empty."""
    return int(min(64, max(16, triton.next_power_of_2(count // num_experts))))


def _is_alike(weight: CodedWeight, other: CodedWeight) -> bool:
    """Whether the two can be stacked."""
    pairs = ((getattr(weight, field.name), getattr(other, field.name), field.name) for field in fields(weight))
    return all(_fits(one, two) and (name in _STACKED or _is_equal(one, two)) for one, two, name in pairs)


def _fits(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and one.dtype == two.dtype
    return type(one) is type(two)


def _is_equal(one: object, two: object) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return torch.equal(one, two)
    return one == two


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None
