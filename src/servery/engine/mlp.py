"""The second half of a layer: a gated MLP, or a mixture of them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
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

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        return self.gate_up.nbytes + self.down.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        return self.down(self._gated(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self.down.add_to(residual, self._gated(x))

    def _gated(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=1)
        return self._activate(gate).mul_(up)


class MixtureOfExperts:
    """The sum of a token's `per_token` most likely experts, weighted by their probabilities (arXiv 2401.04088).

    One call for each expert that some token chose: the experts of a step's tokens are read once, however many tokens.
    """

    __slots__ = ("_experts", "_normalizes", "_per_token", "_router")

    def __init__(self, router: Linear, experts: Sequence[GatedMLP], per_token: int, normalizes: bool) -> None:
        self._router = router
        self._experts = tuple(experts)
        self._per_token = per_token
        self._normalizes = normalizes

    @property
    def nbytes(self) -> int:
        """What the weights of router and experts hold in memory."""
        return self._router.nbytes + sum(expert.nbytes for expert in self._experts)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size]."""
        weights, chosen = self._route(x)
        mixed = torch.zeros_like(x)
        for expert in sorted(set(chosen.flatten().tolist())):
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            part = self._experts[expert](x.index_select(0, rows))
            mixed.index_add_(0, rows, part.mul_(weights[rows, places].unsqueeze(1)))
        return mixed

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return residual + self(x)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and numbers of each row's experts, both [rows, per_token]; probabilities in float32."""
        probabilities = self._router(x).softmax(-1, dtype=torch.float32)
        weights, chosen = probabilities.topk(self._per_token, dim=-1)
        if self._normalizes:
            weights /= weights.sum(-1, keepdim=True)
        return weights.to(x.dtype), chosen
