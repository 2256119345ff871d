"""Sampling without a look at the device chooses what the host's sampler does."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from servery.engine.cuda import sampling
from servery.engine.cuda.sampling import greedy, sample
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow, draw, largest

# Of numpy, which the interpreter computes with.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Rows(NamedTuple):
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor


def on_device(rows: list[SamplingRow]) -> Rows:
    params = [row.params for row in rows]
    return Rows(
        torch.tensor([p.temperature for p in params]),
        torch.tensor([p.top_k for p in params], dtype=torch.int32),
        torch.tensor([p.top_p for p in params], dtype=torch.float64),
        torch.tensor([p.min_p for p in params], dtype=torch.float64),
        torch.tensor([row.seed for row in rows]),
        torch.tensor([row.position for row in rows]),
    )


def rows_of(count: int, **params) -> list[SamplingRow]:
    return [SamplingRow(SamplingParams(**params), -7 + 31 * i, 5 * i, 0, []) for i in range(count)]


def check(logits: Tensor, rows: list[SamplingRow], *, limited: bool = True) -> None:
    expected = [row.token_id for row in draw(logits, rows)]
    assert sample(logits, on_device(rows), limited=limited).tolist() == expected


def spread(count: int, vocab_size: int, *, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return scale * torch.randn(count, vocab_size, generator=generator)


PARAMS = [
    {"temperature": 0.0},
    {"temperature": 1.3},
    {"temperature": 0.7, "min_p": 0.05},
    {"top_k": 5},
    {"top_p": 0.8},
    {"top_k": 40, "top_p": 0.95, "temperature": 0.8, "min_p": 0.01},
]


@given(
    st.lists(st.sampled_from(PARAMS), min_size=1, max_size=4), st.integers(-(2**63), 2**63 - 1), st.integers(0, 9999)
)
@settings(deadline=None, max_examples=8)
def test_rows_of_any_kind_are_as_the_hosts(params, seed: int, position: int) -> None:
    rows = [SamplingRow(SamplingParams(**each), seed, position + i, 0, []) for i, each in enumerate(params)]
    logits = spread(len(rows), 50).round()  # with many that are equal
    check(logits, rows)


def test_a_large_vocabulary_is_raced_in_blocks_as_the_hosts_is() -> None:
    rows = [*rows_of(1), *rows_of(1, temperature=0.5, min_p=0.1), *rows_of(1, top_p=0.5, temperature=0.4)]
    check(spread(3, 5000), rows)
    check(spread(1, 5000), rows[:1], limited=False)


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_k": 30}, {"top_k": 37, "top_p": 0.7, "min_p": 0.02}])
def test_a_nucleus_beyond_the_shortlist_is_found_by_its_borders(params, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "_SHORTLIST", 8)
    check(spread(3, 100).round() / 2, rows_of(3, **params))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_token(bad: float) -> None:
    logits = spread(3, 40)
    logits[1, 7] = bad
    logits[2] = float("-inf")
    for rows in (rows_of(3), rows_of(3, temperature=0.0), rows_of(3, top_k=3)):
        tokens = sample(logits, on_device(rows)).tolist()
        assert tokens[1:] == [-1, -1]
        assert tokens[0] == draw(logits[:1], rows[:1])[0].token_id
    assert greedy(logits).tolist() == [int(logits[0].argmax()), -1, -1]


def test_the_first_largest_is_taken() -> None:
    logits = spread(4, 300).round()
    assert greedy(logits).tolist() == largest(logits)
