"""The regression learns what a batch solution of the same weighted problem would say, and never runs away."""

import random

import numpy as np
import pytest

from servery.gateway.dispatch.regression import Regression


def test_it_finds_the_weights_of_a_linear_law() -> None:
    truth, draw = (0.2, 3e-4, 1e-4, 2e-3), random.Random(1)
    model = Regression((0.0, 0.0, 0.0, 0.0), (1.0, 1e3, 4e3, 16.0), trust=0.01)
    for _ in range(300):
        features = (1.0, draw.uniform(10, 4000), draw.uniform(0, 20_000), draw.randrange(64))
        model.observe(features, sum(w * f for w, f in zip(truth, features, strict=True)))
    assert model.weights == pytest.approx(truth, rel=0.02)


def test_it_equals_the_weighted_least_squares_solution() -> None:
    draw, forgetting = random.Random(2), 0.9
    model = Regression((1.0, 2.0), (1.0, 5.0), forgetting=forgetting, trust=0.01)
    rows = [(1.0, draw.uniform(0, 10)) for _ in range(12)]
    values = [5.0 + 2.0 * x + draw.uniform(0, 9) for _, x in rows]
    for row, value in zip(rows, values, strict=True):
        model.observe(row, value)
    age = forgetting ** np.arange(len(rows) - 1, -1, -1)
    x, y = np.array(rows), np.array(values)
    prior = np.diag([0.01, 0.01 * 25.0]) * forgetting ** len(rows)
    solution = np.linalg.solve(x.T @ (age[:, None] * x) + prior, x.T @ (age * y) + prior @ np.array([1.0, 2.0]))
    assert model.weights == pytest.approx(solution, rel=1e-6)


def test_what_is_never_seen_again_does_not_make_it_run_away() -> None:
    model = Regression((0.1, 1e-4), (1.0, 1000.0))
    for _ in range(20_000):
        model.observe((1.0, 100.0), 0.5)  # one direction only
    assert model.predict((1.0, 100.0)) == pytest.approx(0.5, rel=1e-3)
    model.observe((1.0, 5000.0), 2.0)
    assert 0.0 <= model.predict((1.0, 100.0)) < 2.0
    assert 0.5 < model.predict((1.0, 5000.0)) < 4.0


def test_a_prediction_is_never_negative() -> None:
    model = Regression((0.1, 0.0), (1.0, 1.0))
    for feature, value in ((1.0, 1.0), (2.0, 0.5), (3.0, 0.1)) * 20:
        model.observe((1.0, feature), value)
    assert model.predict((1.0, 50.0)) >= 0.0


def test_a_weight_that_would_be_negative_is_nothing_and_the_others_make_up_for_it() -> None:
    model = Regression((1.0, 2.0), (1.0, 1.0), forgetting=1.0, trust=0.5)
    model.observe((1.0, 4.0), -20.0)
    # The least of 0.5 (w - 1)^2 + (w + 20)^2 where the second weight is held at nothing, and then the first one, too.
    assert model.weights == (0.0, 0.0)
    model = Regression((1.0, 2.0), (1.0, 1.0), forgetting=1.0, trust=0.5)
    model.observe((1.0, 4.0), 0.1)
    assert model.weights == (pytest.approx((0.5 * 1.0 + 0.1) / 1.5), 0.0)


def test_where_less_comes_of_more_it_predicts_the_mean_and_not_the_most() -> None:
    """The negative slope was cut off and its intercept kept: everything was predicted to be as slow as the slowest."""
    model, draw = Regression((0.0, 0.0), (1.0, 10.0)), random.Random(8)
    for _ in range(500):
        x = draw.uniform(0, 10)
        model.observe((1.0, x), 10.0 - 0.5 * x + draw.uniform(-0.1, 0.1))
    assert model.predict((1.0, 5.0)) == pytest.approx(7.5, rel=0.08)


def test_it_follows_a_change() -> None:
    model = Regression((0.1,), (1.0,))
    for _ in range(200):
        model.observe((1.0,), 0.1)
    for _ in range(150):
        model.observe((1.0,), 1.0)
    assert model.predict((1.0,)) == pytest.approx(1.0, rel=0.06)
