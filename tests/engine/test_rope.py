"""Frequencies against transformers, the table against the formula."""

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from servery.engine.architecture import ModelConfig
from servery.engine.rope import RopeTable, head_order, inverse_frequencies, rotate
from servery.engine.rope_config import RopeConfig
from tests.engine import checkpoints

YARN = checkpoints.YARN_ROPE
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + pair / 8 for pair in range(16)],
    "long_factor": [2.0 + pair for pair in range(16)],
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "parameters",
    [
        checkpoints.LLAMA3_ROPE,
        {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e6},
        {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
        YARN,
        YARN | {"truncate": False, "beta_fast": 16.0, "beta_slow": 2.0},
        YARN | {"attention_factor": 1.3},
        YARN | {"mscale": 0.7, "mscale_all_dim": 1.2},
        LONGROPE,
        LONGROPE | {"attention_factor": 1.3},
        LONGROPE | {"factor": 9.0},
    ],
)
def test_frequencies_are_those_of_transformers(parameters, tmp_path):
    model = checkpoints.llama3(rope_parameters=dict(parameters), head_dim=32)
    config = ModelConfig.load(checkpoints.save(model, tmp_path))
    expected, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](model.config)
    torch.testing.assert_close(inverse_frequencies(config.ropes[0], 32), expected, rtol=1e-6, atol=0)
    assert config.ropes[0].attention_factor == pytest.approx(attention_factor)


def test_the_table_grows_when_a_later_position_is_asked_for():
    config = RopeConfig(theta=10_000.0)
    table = RopeTable(config, 8, 10_000, torch.float32)
    positions = torch.tensor([0, 5000, 9999])
    cos, sin = table.at(positions, 10_000)
    angles = torch.outer(positions.float(), inverse_frequencies(config, 8))
    assert torch.equal(cos[:, 0], torch.cat((angles.cos(), angles.cos()), 1))
    assert torch.equal(sin[:, 0], torch.cat((-angles.sin(), angles.sin()), 1))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [None, 12, 4, 0])
def test_reordered_heads_have_the_scores_of_rotating_the_stored_pairs(rotary_dim, interleaved):
    """By hand: each pair as a complex number, what is left of a head as it stands."""
    config = RopeConfig(theta=100.0, rotary_dim=rotary_dim, interleaved=interleaved)
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    num_pairs = (16 if rotary_dim is None else rotary_dim) // 2
    pairs = [(2 * i, 2 * i + 1) if interleaved else (i, i + num_pairs) for i in range(num_pairs)]
    expected = float((query * key)[2 * num_pairs :].sum())
    for i, (first, second) in enumerate(pairs):
        angle = torch.tensor(7 - 30) * 100.0 ** (-i / num_pairs)
        turned = torch.complex(query[first], query[second]) * torch.polar(torch.tensor(1.0).double(), angle.double())
        expected += float((turned * torch.complex(key[first], -key[second])).real)

    order = head_order(config, 16)
    order = torch.arange(16) if order is None else order
    table = RopeTable(config, 16, 64, torch.float32)
    rotated = []
    for x, position in ((query, 7), (key, 30)):
        out = torch.empty(1, 1, 16)
        rotate(x.float()[order].view(1, 1, 16), *table.at(torch.tensor([position]), 64), out=out)
        rotated.append(out)
    assert sorted(order.tolist()) == list(range(16))
    assert float((rotated[0] * rotated[1]).sum()) == pytest.approx(expected, abs=1e-4)


def test_rotation_keeps_length_and_makes_products_depend_on_distance_only():
    table = RopeTable(RopeConfig(theta=10_000.0), 16, 512, torch.float32)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 1, 16, generator=generator), torch.randn(1, 1, 16, generator=generator)

    def product(query_position: int, key_position: int) -> float:
        rotated = [torch.empty_like(query), torch.empty_like(key)]
        for x, position, out in ((query, query_position, rotated[0]), (key, key_position, rotated[1])):
            rotate(x, *table.at(torch.tensor([position]), 512), out=out)
            torch.testing.assert_close(out.norm(), x.norm())
        return float((rotated[0] * rotated[1]).sum())

    assert product(40, 7) == pytest.approx(product(433, 400), abs=1e-4)
