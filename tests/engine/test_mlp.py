"""A mixture of experts against its definition, one row and one expert at a time."""

import pytest
import torch

from servery.engine.linear import DenseLinear
from servery.engine.mixture_config import ExpertConfig
from servery.engine.mlp import GatedMLP, MixtureOfExperts, SharedExpert
from servery.engine.router import Router
from servery.engine.traits import Clamp

HIDDEN, INNER, COUNT = 16, 24, 7
CONFIG = ExpertConfig(count=COUNT, per_token=2, intermediate_size=INNER, normalizes=True, layers=(True,))


def mlp(seed: int) -> GatedMLP:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(2 * INNER, HIDDEN, generator=generator)
    return GatedMLP(DenseLinear(up), DenseLinear(torch.randn(HIDDEN, INNER, generator=generator)), "silu")


def mixture(shared: SharedExpert | None = None) -> MixtureOfExperts:
    weight = torch.randn(COUNT, HIDDEN, generator=torch.Generator().manual_seed(50))
    return MixtureOfExperts(Router(CONFIG, weight), [mlp(seed) for seed in range(COUNT)], shared)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(51))


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_row_is_the_weighted_sum_of_its_experts_and_the_shared_one(count):
    gate = DenseLinear(torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(52)))
    shared, x = SharedExpert(mlp(99), gate), rows(count)
    weight = torch.randn(COUNT, HIDDEN, generator=torch.Generator().manual_seed(50))
    weights, chosen = Router(CONFIG, weight)(x)
    expected = [
        sum(w * mlp(int(expert))(row[None])[0] for w, expert in zip(weights[i], chosen[i], strict=True))
        + torch.sigmoid(gate(row[None])[0]) * mlp(99)(row[None])[0]
        for i, row in enumerate(x)
    ]
    torch.testing.assert_close(mixture(shared)(x), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_others():
    x = rows(40)
    alone = torch.cat([mixture()(row[None]) for row in x])
    torch.testing.assert_close(mixture()(x), alone, rtol=1e-5, atol=1e-4)


def test_a_clamped_gate_is_the_formula_of_gpt_oss():
    x, limit = rows(9), 2.0
    clamped = GatedMLP(mlp(1).gate_up, mlp(1).down, Clamp(alpha=1.5, limit=limit))
    both = mlp(1).gate_up(x)
    gate, up = both[:, ::2].clamp(max=limit), both[:, 1::2].clamp(min=-limit, max=limit)
    expected = mlp(1).down((up + 1) * gate * torch.sigmoid(1.5 * gate))
    torch.testing.assert_close(clamped(x), expected)
    assert both.abs().max() > limit


def test_adding_to_a_residual_leaves_it_alone():
    x, residual = rows(5), rows(6)[1:]
    before = residual.clone()
    assert torch.equal(mixture().add_to(residual, x), residual + mixture()(x))
    assert torch.equal(residual, before)


def test_bytes_are_those_of_router_experts_and_shared_expert():
    expert = 3 * HIDDEN * INNER * 4
    whole = mixture(SharedExpert(mlp(99)))
    assert (whole.expert_bytes, whole.nbytes) == (COUNT * expert, (COUNT + 1) * expert + COUNT * HIDDEN * 4)
