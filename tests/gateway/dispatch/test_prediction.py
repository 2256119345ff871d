"""Predictions learn from what happens, cover what they promise to cover, and fade when nothing happens."""

import random
from dataclasses import replace

import pytest

from servery.config.types import Slo
from servery.gateway.dispatch.load import Load
from servery.gateway.dispatch.prediction import LatencyModel, Margin, Margins


def a_load(draw: random.Random) -> Load:
    return Load(prefilling=draw.randrange(4), decoding=draw.randrange(20), prefill_tokens=draw.randrange(8_000))


def served_in(load: Load, tokens: int, draw: random.Random) -> float:
    """A server's law: 50 ms, 10,000 tokens of prefill a second, noise of a tenth."""
    return (0.05 + (tokens + load.prefill_tokens) * 1e-4 + 2e-3 * load.in_flight) * draw.uniform(0.9, 1.1)


def taught(model: LatencyModel, exchanges: int, draw: random.Random) -> None:
    for at in range(exchanges):
        load, tokens = a_load(draw), draw.randrange(1, 3_000)
        model.observe_ttft(load, tokens, served_in(load, tokens, draw), at * 0.1)
        model.observe_tpot(
            load, load.in_flight + 1, (0.01 + 5e-4 * (load.in_flight + 1)) * draw.uniform(0.9, 1.1), at * 0.1
        )


def test_an_idle_deployment_that_is_far_faster_than_predicted_is_soon_believed() -> None:
    """Fifty slow answers under load took as many fast ones to be forgotten."""

    def taught_again(load: Load) -> float:
        model = LatencyModel()
        for at in range(50):
            model.observe_ttft(Load(prefilling=3, prefill_tokens=900), 300, 3.0, 0.1 * at)
        for at in range(10):
            model.observe_ttft(load, 300, 0.1, 5.0 + 0.1 * at)
        return model.predict(Load(), 300, 6.0, 0.0).ttft_s

    assert taught_again(Load()) < 0.5
    assert taught_again(Load(decoding=1)) > 1.0


def test_after_some_exchanges_the_median_error_is_small() -> None:
    model, draw = LatencyModel(), random.Random(3)
    taught(model, 200, draw)
    errors = []
    for _ in range(200):
        load, tokens = a_load(draw), draw.randrange(1, 3_000)
        predicted, actual = model.predict(load, tokens, 20.0), served_in(load, tokens, draw)
        errors.append(abs(predicted.ttft_s - actual) / actual)
    assert sorted(errors)[100] < 0.08


@pytest.mark.parametrize("attainment", [0.8, 0.9, 0.99])
def test_the_upper_value_covers_the_share_that_it_is_for(attainment: float) -> None:
    model, draw = LatencyModel(attainment), random.Random(4)
    taught(model, 200, draw)
    covered = 0
    for at in range(200, 1_200):
        load, tokens = a_load(draw), draw.randrange(1, 3_000)
        actual = served_in(load, tokens, draw)
        covered += actual <= model.predict(load, tokens, at * 0.1).ttft_upper_s
        model.observe_ttft(load, tokens, actual, at * 0.1)
    assert covered / 1_000 == pytest.approx(attainment, abs=0.04)


def test_a_new_deployment_is_predicted_to_be_fast_and_more_load_to_be_slower() -> None:
    model = LatencyModel()
    idle = model.predict(Load(), 1_000, 0.0)
    assert idle.ttft_s < 0.1
    assert idle.ttft_upper_s == idle.ttft_s
    busy = model.predict(Load(prefilling=5, decoding=50, prefill_tokens=50_000), 1_000, 0.0)
    assert busy.ttft_s > 10 * idle.ttft_s
    assert busy.tpot_s > idle.tpot_s


def test_what_was_slow_once_is_believed_less_with_time_so_that_it_is_tried_again() -> None:
    model = LatencyModel()
    for at in range(30):
        model.observe_ttft(Load(), 100, 20.0, float(at))
    predicted = [model.predict(Load(), 100, 29.0 + after).ttft_upper_s for after in (0, 30, 60, 600)]
    assert predicted == sorted(predicted, reverse=True)
    assert predicted[0] > 15.0
    assert predicted[-1] < 0.1


def test_a_new_deployment_is_taken_to_keep_any_slo_alone() -> None:
    fast = LatencyModel(0.99, Slo(ttft_s=0.04, tpot_s=0.004)).predict(Load(), 500, 0.0)
    assert (fast.ttft_upper_s <= 0.04, fast.tpot_upper_s <= 0.004) == (True, True)
    usual = LatencyModel().predict(Load(), 500, 0.0)
    assert LatencyModel(0.99, Slo(ttft_s=1.0, tpot_s=0.05)).predict(Load(), 500, 0.0) == usual


def test_a_prediction_changes_nothing() -> None:
    model, draw = LatencyModel(), random.Random(5)
    taught(model, 20, draw)
    load = a_load(draw)
    before = replace(load)
    assert model.predict(load, 100, 3.0) == model.predict(load, 100, 3.0)
    assert load == before


def test_a_margin_stays_between_one_and_ten() -> None:
    margin = Margin(0.99)
    for _ in range(100):
        margin.observe(1.0, 1e-6)
    assert margin.factor == 1.0
    for _ in range(1_000):
        margin.observe(1.0, 1e6)
    assert margin.factor == pytest.approx(10.0)


def test_each_size_of_prediction_has_a_margin_of_its_own_and_a_new_one_that_of_all() -> None:
    margins, draw = Margins(0.9), random.Random(6)
    for _ in range(3_000):
        margins.observe(0.01, 0.01 * draw.uniform(0.5, 3.0))
        margins.observe(1.0, draw.uniform(0.9, 1.1))
    assert margins.factor(0.011) == pytest.approx(2.75, rel=0.1)
    assert margins.factor(1.1) == pytest.approx(1.08, rel=0.05)
    assert margins.factor(1.1) < margins.factor(30.0) < margins.factor(0.011)


def test_the_wait_for_a_place_in_the_engine_is_learnt() -> None:
    """Eight at a time, 0.1 s each: beyond them a line through all loads is wrong everywhere."""
    model, draw = LatencyModel(), random.Random(7)

    def took(requests: int) -> float:
        return 0.02 + max(0, requests - 7) * 0.1

    for at in range(600):
        load = Load(decoding=draw.randrange(24))
        model.observe_ttft(load, 100, took(load.in_flight), at * 0.1)
    for requests in (0, 4, 8, 12, 20):
        predicted = model.predict(Load(decoding=requests), 100, 60.0).ttft_s
        assert predicted == pytest.approx(took(requests), abs=0.03)


def test_the_time_per_token_is_that_of_the_answers_which_shared_the_steps() -> None:
    """Two that come together meet an idle engine both, and share it to their end."""
    model = LatencyModel()
    for at in range(200):
        answering = 1 + at % 8
        model.observe_tpot(Load(), answering, 0.002 + 0.001 * answering, at * 0.1)
    assert model.predict(Load(decoding=7), 100, 20.0).tpot_s == pytest.approx(0.010, rel=0.05)
    assert model.predict(Load(), 100, 20.0).tpot_upper_s > 0.008  # what those took that met nobody
