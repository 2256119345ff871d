"""The second half of a layer: a gated MLP."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from servery.engine.linear import Linear
from servery.engine.supported import GELU_TANH, SILU

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {SILU: F.silu, GELU_TANH: partial(F.gelu, approximate="tanh")}


class GatedMLP:
    """`down(activation(gate(x)) * up(x))` (arXiv 2002.05202). `gate_up` has the rows of gate, then those of up."""

    __slots__ = ("_activate", "down", "gate_up")

    def __init__(self, gate_up: Linear, down: Linear, activation: str) -> None:
        self.gate_up = gate_up
        self.down = down
        self._activate = _ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        return self.down(self._gated(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self.down.add_to(residual, self._gated(x))

    def _gated(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=1)
        return self._activate(gate).mul_(up)
