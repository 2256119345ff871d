"""The comparison of batching policies does the same work under each, and counts slots as it says."""

import pytest

from benchmarks.continuous_batching import Load, Slots, compare, measure, padded_rows_per_token, policies, workload
from servery import amuse
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams


@pytest.fixture(scope="module")
def core() -> EngineCore:
    draft = amuse.path("draft")
    return EngineCore(EngineConfig(model=draft, max_running=4, prefix_cache=False, kv_memory_bytes=16 << 20, threads=1))


def test_every_policy_computes_the_same_tokens(core: EngineCore) -> None:
    requests = workload(5, core.info.vocab_size)
    expected = sum(request.params.max_tokens or 0 for request in requests)
    steps = {}
    for name, policy in policies(4).items():
        before, load = core.stats().steps, Load(core)
        policy(load, requests)
        steps[name] = core.stats().steps - before
        assert (load.tokens, len(load.finished_s)) == (expected, 5)
    assert steps["continuous"] <= steps["static"] == steps["static, padded"] < steps["one at a time"]


def test_a_measurement_has_every_figure_of_every_round(core: EngineCore) -> None:
    figures = measure(core, workload(3, core.info.vocab_size), policies(2), rounds=2)
    assert {name: len(runs) for name, runs in figures["runs"].items()} == dict.fromkeys(policies(2), 2)
    waste = figures["kv_waste_percent"]
    assert 0 <= waste["paged"] < waste["contiguous, answer length known"] < waste["contiguous, context length"] < 100
    assert set(compare(figures["runs"])) == {"static", "static, padded", "one at a time"}


def test_waste_is_what_is_reserved_and_holds_nothing() -> None:
    assert Slots(allocated=100, used=90, known_length=180, context_length=900).waste_percent() == pytest.approx(
        {"paged": 10.0, "contiguous, answer length known": 50.0, "contiguous, context length": 90.0}
    )
    assert Slots().waste_percent() == {}


def test_padding_counts_every_row_until_the_longest_of_its_batch_ends() -> None:
    requests = [
        NewRequest(request_id=str(length), prompt=[1], params=SamplingParams(max_tokens=length))
        for length in (10, 30, 5, 15, 20)
    ]
    assert padded_rows_per_token(requests, batch=2) == (2 * 30 + 2 * 15 + 20) / 80


def test_the_lengths_of_answers_are_mixed() -> None:
    lengths = [request.params.max_tokens or 0 for request in workload(300, 1000)]
    assert (min(lengths) < 15, max(lengths) > 400) == (True, True)
    assert all(10 <= length <= 500 for length in lengths)
