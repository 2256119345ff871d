"""What a draft model's certainty says of its drafts."""

import pytest
import torch

from servery.engine.speculation.confidence import Calibration, confidences, grade


def test_the_confidence_is_the_largest_probability() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    assert confidences(probs.log() + 3.0) == pytest.approx([0.7, 0.5])


def test_a_row_that_is_not_finite_has_some_grade() -> None:
    (confidence,) = confidences(torch.tensor([[0.0, float("nan")]]))
    assert grade(confidence, is_greedy=True) >= 0


def test_a_grade_is_the_better_the_surer_and_random_draws_have_their_own() -> None:
    grades = [grade(confidence, is_greedy=True) for confidence in (0.1, 0.3, 0.6, 0.99)]
    assert grades == sorted(set(grades))
    assert not {grade(p / 100, is_greedy=True) for p in range(101)} & {
        grade(p / 100, is_greedy=False) for p in range(101)
    }


def test_before_anything_is_known_a_draft_is_as_likely_as_the_model_says() -> None:
    chances = Calibration().chances
    for percent in (5, 35, 60, 80, 92, 98):
        assert chances[grade(percent / 100, is_greedy=True)] == pytest.approx(percent / 100, abs=0.12)


def test_only_drafts_up_to_the_first_that_fell_are_learnt_from() -> None:
    calibration, untouched = Calibration(), Calibration().chances
    for _ in range(300):
        calibration.observe([6, 2, 5], 1)
    assert calibration.chances[6] > 0.99
    assert calibration.chances[2] < 0.1
    assert calibration.chances[5] == untouched[5]
