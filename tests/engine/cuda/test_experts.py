"""Experts in two launches, interpreted, against one call for each of them."""

import pytest
import torch

from servery.engine.cuda.device_kernels import open_kernels
from servery.engine.cuda.experts import GroupedExperts, _Choices
from servery.engine.linear import linear_of
from servery.engine.mixture_config import ExpertConfig
from servery.engine.mlp import GatedMLP, MixtureOfExperts, SharedExpert
from servery.engine.quantization.matrix import CodebookMatrix, DenseMatrix, Matrix
from servery.engine.quantization.rounding import rounded
from servery.engine.quantization.scheme import Rounding
from servery.engine.router import Router
from servery.engine.traits import SILU, Clamp

HIDDEN, INNER, EXPERTS, PER_TOKEN = 64, 32, 5, 2
GENERATOR = torch.Generator().manual_seed(4)
CONFIG = ExpertConfig(count=EXPERTS, per_token=PER_TOKEN, intermediate_size=INNER, normalizes=True, layers=(True,))


BOOK = torch.randn(16, generator=GENERATOR)


def randn(*size: int) -> torch.Tensor:
    return torch.randn(size, generator=GENERATOR)


def codebook(weight: torch.Tensor) -> Matrix:
    rows, columns = weight.shape
    codes = torch.randint(0, 256, (rows, columns // 2), generator=GENERATOR, dtype=torch.uint8)
    return CodebookMatrix(codes, BOOK, torch.rand(rows, columns // 32, generator=GENERATOR))


LAYOUTS = {
    "dense": DenseMatrix,
    "int8": lambda weight: rounded(weight, Rounding(8)),
    "int4": lambda weight: rounded(weight, Rounding(4, 32)),
    "codebook": codebook,
}


def both(layout: str, *, has_bias: bool = False, activation: str | Clamp = SILU, invariant: bool = False):
    """The mixture in torch, one expert after the other, and that of the kernels."""
    router = Router(CONFIG, randn(EXPERTS, HIDDEN))
    sizes = ((2 * INNER, HIDDEN), (HIDDEN, INNER))
    halves = [
        [(LAYOUTS[layout](randn(*size) / 8), randn(size[0]) if has_bias else None) for _ in range(EXPERTS)]
        for size in sizes
    ]
    pairs = zip(*halves, strict=True)
    experts = [GatedMLP(linear_of([m], b), linear_of([n], c), activation) for (m, b), (n, c) in pairs]
    shared = SharedExpert(
        GatedMLP(linear_of([DenseMatrix(randn(8, HIDDEN))]), linear_of([DenseMatrix(randn(HIDDEN, 4))]), SILU)
    )
    kernels = open_kernels(torch.device("cpu"), torch.float32, batch_invariant=invariant)
    made = kernels.mixture(router, *halves, activation, shared)
    assert isinstance(made, GroupedExperts)
    return MixtureOfExperts(router, experts, shared), made


@pytest.mark.parametrize(
    ("layout", "has_bias", "activation"),
    [("dense", False, SILU), ("int8", False, SILU), ("int4", True, SILU), ("codebook", True, Clamp(1.702, 7.0))],
)
def test_all_experts_at_once_are_as_one_after_the_other(layout: str, has_bias: bool, activation) -> None:
    plain, grouped = both(layout, has_bias=has_bias, activation=activation)
    x = randn(7, HIDDEN)
    expected, got = plain(x), grouped(x)
    # Values of 4 bits are not rounded to their scales' type before they are multiplied.
    tolerance = 0.02 if layout == "int4" else 1e-5
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert torch.equal(grouped.add_to(x, x), x + got)


def test_choices_are_sorted_by_expert_as_they_came() -> None:
    chosen = torch.randint(0, 4, (37, 3), generator=GENERATOR)
    chosen[chosen == 2] = 0  # whom nobody chose has no place
    choices = _Choices.of(chosen, 5)
    assert choices.order.tolist() == chosen.flatten().argsort(stable=True).tolist()
    assert choices.places[choices.order.long()].tolist() == list(range(111))
    sizes = torch.bincount(chosen.flatten(), minlength=5)
    assert choices.starts.tolist() == [0, *sizes.cumsum(0).tolist()]


def test_with_invariance_a_row_never_depends_on_the_others() -> None:
    _, grouped = both("dense", invariant=True)
    grouped._shared = None  # its layers are torch's here
    x = randn(9, HIDDEN)
    assert torch.equal(grouped(x)[4:5], grouped(x[4:5]))


def test_experts_whose_layouts_differ_are_left_to_torch() -> None:
    kernels = open_kernels(torch.device("cpu"), torch.float32)
    mixed = [(DenseMatrix(randn(2 * INNER, HIDDEN)), None), (rounded(randn(2 * INNER, HIDDEN), Rounding(8)), None)]
    downs = [(DenseMatrix(randn(HIDDEN, INNER)), None)] * 2
    assert kernels.mixture(Router(CONFIG, randn(2, HIDDEN)), mixed, downs, SILU, None) is None
