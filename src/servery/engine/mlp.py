"""The second half of a layer: a gated MLP, or a mixture of them."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.linear import Linear
from servery.engine.router import Router
from servery.engine.traits import GELU_TANH, SILU, Clamp

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {SILU: F.silu, GELU_TANH: partial(F.gelu, approximate="tanh")}


class GatedMLP:
    """`down(activation(gate(x)) * up(x))` (arXiv 2002.05202). `gate_up` has the rows of gate, then those of up.

    With a `Clamp` it is what that says in place of the product.
    """

    __slots__ = ("_combine", "activation", "down", "gate_up")

    def __init__(self, gate_up: Linear, down: Linear, activation: str | Clamp) -> None:
        self.gate_up = gate_up
        self.down = down
        self.activation = activation
        self._combine = combination(activation)

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return self.gate_up.nbytes + self.down.nbytes

    def adapted(self, wrap: Callable[[str, Linear], Linear]) -> "GatedMLP":
        """The same over what `wrap` makes of the linears, given their names."""
        other = copy.copy(self)
        other.gate_up, other.down = wrap("gate_up", self.gate_up), wrap("down", self.down)
        return other

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        return self.down(self._combine(self.gate_up(x)))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self.down.add_to(residual, self._combine(self.gate_up(x)))


def combination(activation: str | Clamp) -> Callable[[Tensor], Tensor]:
    """What makes [rows, size] of gates and ups [rows, 2 * size]."""
    if isinstance(activation, Clamp):
        return partial(_clamped, activation)
    return partial(_gated, _ACTIVATIONS[activation])


def _gated(activate: Callable[[Tensor], Tensor], gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=1)
    return activate(gate).mul_(up)


def _clamped(clamp: Clamp, gate_up: Tensor) -> Tensor:
    gate, up = gate_up[:, 0::2].clamp(max=clamp.limit), gate_up[:, 1::2].clamp(-clamp.limit, clamp.limit)
    return (gate * clamp.alpha).sigmoid_().mul_(gate).mul_(up.add_(1.0))


class SharedExpert:
    """The expert that every token goes to; with a gate its output is multiplied by sigmoid(gate(x))."""

    __slots__ = ("_gate", "mlp")

    def __init__(self, mlp: GatedMLP, gate: Linear | None = None) -> None:
        self.mlp = mlp
        self._gate = gate

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return self.mlp.nbytes + (0 if self._gate is None else self._gate.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        return self.mlp(x) if self._gate is None else self.mlp(x).mul_(self._gate(x).sigmoid())


class Mixture(Protocol):
    """A mixture of experts, however it is computed."""

    @property
    def nbytes(self) -> int:
        """What the weights of router and experts hold in memory."""
        ...

    @property
    def expert_bytes(self) -> int:
        """What the experts hold in memory, without the shared one."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        ...


class MixtureOfExperts:
    """The sum of the experts that a router chooses for each token, by their weights, and of the shared expert.

    One call for each expert that some token goes to: the experts of a step's tokens are read once, however many
    tokens, and those of one expert are computed together.
    """

    __slots__ = ("_experts", "_router", "_shared")

    def __init__(self, router: Router, experts: Sequence[GatedMLP], shared: SharedExpert | None = None) -> None:
        self._router = router
        self._experts = tuple(experts)
        self._shared = shared

    @property
    def nbytes(self) -> int:
        """What the weights of router and experts hold in memory."""
        shared = 0 if self._shared is None else self._shared.nbytes
        return self._router.nbytes + shared + self.expert_bytes

    @property
    def expert_bytes(self) -> int:
        """What the experts hold in memory, without the shared one."""
        return sum(expert.nbytes for expert in self._experts)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        weights, chosen = self._router(x)
        # Places (row, choice), those of one expert next to each other.
        places = chosen.flatten().argsort(stable=True)
        rows = places.div(chosen.shape[1], rounding_mode="floor")
        sizes = torch.bincount(chosen.flatten(), minlength=len(self._experts)).tolist()
        inputs = torch.split(x.index_select(0, rows), sizes)
        parts = [expert(part) for expert, part in zip(self._experts, inputs, strict=True) if len(part)]
        weighted = torch.cat(parts).mul_(weights.flatten().index_select(0, places).unsqueeze(1))
        mixed = torch.zeros_like(x) if self._shared is None else self._shared(x)
        return mixed.index_add_(0, rows, weighted)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return residual + self(x)
