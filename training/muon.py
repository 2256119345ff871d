"""Muon for the matrices: momentum, orthogonalised by a Newton-Schulz iteration (Jordan et al., 2024)."""

from collections.abc import Iterable

import torch
from torch import Tensor

# Quintic coefficients from the Muon write-up: chosen for slope at zero, they bring singular values into 0.7..1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, to each matrix of a stack [N, R, C]."""
    a, b, c = _QUINTIC
    wide = stack.shape[-2] <= stack.shape[-1]
    x = (stack if wide else stack.mT).to(torch.bfloat16)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Matrices of one shape are stacked and orthogonalised in one batch, which matters on a CPU."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, decay: float = 0.02
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group["lr"], group["momentum"], group["decay"])

    def _update(self, matrices: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        nesterov = []
        for matrix in matrices:
            state = self.state[matrix]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(matrix)
            gradient = matrix.grad
            assert gradient is not None
            state["momentum"].lerp_(gradient, 1 - momentum)
            nesterov.append(gradient.lerp(state["momentum"], momentum))
        rows, columns = matrices[0].shape
        step = lr * max(1.0, rows / columns) ** 0.5
        for matrix, update in zip(matrices, orthogonalise(torch.stack(nesterov)), strict=True):
            matrix.mul_(1 - lr * decay).add_(update.to(matrix.dtype), alpha=-step)
