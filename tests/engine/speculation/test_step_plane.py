"""Costs are found from noisy steps, whatever the load does."""

from random import Random

import pytest

from servery.engine.speculation.step_plane import StepPlane


def cost(sequences: int, drafts: int) -> float:
    return 0.002 + 0.0001 * sequences + 0.00003 * drafts


def learn(
    plane: StepPlane, steps: int, sequences: tuple[int, ...], drafts: tuple[int, ...], noise: float = 0.0
) -> None:
    chance = Random(1)
    for _ in range(steps):
        b, d = chance.choice(sequences), chance.choice(drafts)
        plane.observe(b, d, cost(b, d) * (1 + noise * chance.random()))


def test_a_plane_is_found_exactly():
    plane = StepPlane()
    learn(plane, 200, (4, 6, 8, 10), (0, 8, 20))
    for sequences, drafts in ((4, 0), (10, 20), (7, 3), (12, 40)):
        assert plane.predict(sequences, drafts) == pytest.approx(cost(sequences, drafts), rel=0.01)


def test_noise_and_outliers_shift_it_little():
    plane = StepPlane()
    learn(plane, 300, (4, 6, 8, 10), (0, 8, 20), noise=0.2)
    plane.observe(8, 8, 5.0)
    assert plane.predict(8, 8) == pytest.approx(1.1 * cost(8, 8), rel=0.15)


def test_slopes_last_while_nothing_tells_of_them():
    plane = StepPlane()
    learn(plane, 200, (4, 8), (0, 16))
    learn(plane, 500, (8,), (16,), noise=0.1)
    assert plane.per_draft_s == pytest.approx(0.00003, rel=0.3)
    assert plane.per_sequence_s == pytest.approx(0.0001, rel=0.3)


def test_what_changes_is_learnt():
    plane = StepPlane()
    for seconds in [0.030] * 300 + [0.020] * 120:
        plane.observe(64, 0, seconds)
    assert plane.predict(64) == pytest.approx(0.020, rel=0.05)


def test_before_anything_was_seen_nothing_is_known():
    plane = StepPlane()
    assert (plane.predict(3), plane.is_known) == (0.0, False)
    plane.believe(0.001, 0.0005)
    for _ in range(3):
        plane.observe(4, 4, 0.01)
    assert plane.is_known
    assert plane.predict(4, 0) == pytest.approx(0.008), "the slopes believed in hold until others are seen"
