"""Routing against a version for one row at a time, written from the papers."""

import itertools
import math

import pytest
import torch

from servery.engine.mixture_config import ExpertConfig
from servery.engine.router import Router

CONFIG = ExpertConfig(count=12, per_token=3, intermediate_size=8, normalizes=False, layers=(True,))
GROUPED = {"groups": 4, "kept_groups": 2}


def config(**changes):
    return ExpertConfig(**{name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | changes)


def routed(config: ExpertConfig, logits: list[float], correction: list[float]) -> dict[int, float]:
    """The weight of each chosen expert."""
    total = sum(math.exp(logit) for logit in logits)
    scores = [1 / (1 + math.exp(-x)) if config.scores == "sigmoid" else math.exp(x) / total for x in logits]
    judged = [score + extra for score, extra in zip(scores, correction, strict=True)]
    size = config.count // config.groups
    groups = [range(first, first + size) for first in range(0, config.count, size)]
    groups.sort(key=lambda group: -sum(sorted((judged[e] for e in group), reverse=True)[: config.group_top]))
    eligible = itertools.chain.from_iterable(groups[: config.kept_groups])
    chosen = sorted(eligible, key=lambda expert: -judged[expert])[: config.per_token]
    whole = sum(scores[expert] for expert in chosen) if config.normalizes else 1.0
    return {expert: scores[expert] / whole * config.scale for expert in chosen}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalizes": True},
        {"scale": 2.5, **GROUPED},
        {"scores": "sigmoid", "is_corrected": True, "normalizes": True, "scale": 1.5, **GROUPED},
        {"scores": "sigmoid", "is_corrected": True},
    ],
)
def test_each_row_goes_where_the_papers_send_it(changes):
    generator = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(rows, 16, generator=generator) for rows in (12, 50))
    correction = torch.randn(12, generator=generator) / 4 if changes.get("is_corrected") else None
    bias = torch.randn(12, generator=generator)
    weights, chosen = Router(config(**changes), weight, correction, bias)(x)
    extra = [0.0] * 12 if correction is None else correction.tolist()
    for row, logits in enumerate((x.double() @ weight.double().t() + bias).tolist()):
        expected = routed(config(**changes), logits, extra)
        found = dict(zip(chosen[row].tolist(), weights[row].tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-4), row


def test_routing_is_float32_whatever_the_type_of_the_rows():
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(12, 16, generator=generator)
    rounded = torch.randn(50, 16, generator=generator).bfloat16()
    weights, chosen = Router(CONFIG, weight)(rounded)
    exact, expected = Router(CONFIG, weight)(rounded.float())
    assert torch.equal(chosen, expected)
    assert torch.equal(weights, exact.bfloat16())


@pytest.mark.parametrize(("num_tokens", "share"), [(1, 3 / 12), (2, 1 - (9 / 12) ** 2), (1000, 1.0)])
def test_more_tokens_need_more_of_the_experts(num_tokens, share):
    assert CONFIG.read_share(num_tokens) == pytest.approx(share)
