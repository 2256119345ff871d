"""Synthetic traffic has the statistics of the traces that it stands for (those of `slo_planner`'s table)."""

import itertools
import statistics

import pytest

from servery.bench.traces.request import TraceRequest
from servery.bench.traces.synthetic import KINDS, synthetic


def figures(requests: list[TraceRequest]) -> dict[str, float]:
    gaps = [late.at_s - early.at_s for early, late in itertools.pairwise(requests)]
    inputs, outputs = (
        sorted(values) for values in ([r.input_tokens for r in requests], [r.output_tokens for r in requests])
    )
    return {
        "rate": 1 / statistics.mean(gaps),
        "cv": statistics.pstdev(gaps) / statistics.mean(gaps),
        "input": statistics.mean(inputs),
        "input_p99": inputs[int(0.99 * len(inputs))],
        "output": statistics.mean(outputs),
    }


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("chat", {"rate": 5.53, "cv": 1.09, "input": 1155, "input_p99": 4142, "output": 211}),
        ("code", {"rate": 2.57, "cv": 13.2, "input": 2048, "output": 28}),
        ("conversation", {"rate": 3.4, "input": 12_035, "input_p99": 85_000, "output": 343}),
    ],
)
def test_the_figures_are_those_published(name: str, published: dict[str, float]) -> None:
    found = figures(synthetic(name, 10_000, seed=1))
    assert {key: found[key] for key in published} == pytest.approx(published, rel=0.2)


def test_conversations_repeat_what_was_said_as_often_as_recorded_ones() -> None:
    seen, again, total = set[int](), 0, 0
    for one in synthetic("conversation", 8_000, seed=2):
        again += len(seen.intersection(one.blocks))
        total += len(one.blocks)
        seen.update(one.blocks)
    assert again / total == pytest.approx(0.366, abs=0.04)


def test_a_turn_begins_with_the_whole_blocks_of_the_turn_before() -> None:
    turns: dict[str, list[TraceRequest]] = {}
    for one in synthetic("conversation", 500, seed=3):
        turns.setdefault(str(one.session), []).append(one)
    pairs = [(a, b) for session in turns.values() for a, b in itertools.pairwise(session)]
    assert len(pairs) > 50
    for earlier, later in pairs:
        whole = earlier.input_tokens // earlier.block_tokens
        assert later.blocks[:whole] == earlier.blocks[:whole]
        assert len(later.blocks) == -(-later.input_tokens // later.block_tokens)


@pytest.mark.parametrize("name", KINDS)
def test_the_seed_decides_all(name: str) -> None:
    assert synthetic(name, 50, 1) == synthetic(name, 50, 1) != synthetic(name, 50, 2)
