"""Each request is judged by its own drafts, by everybody's as long as it has few."""

import pytest

from servery.engine.request import NewRequest, Sequence
from servery.engine.speculation.acceptance import Acceptance


def sequence(name: str) -> Sequence:
    return Sequence(NewRequest(request_id=name, prompt=[1]), 0, 0, 0.0)


def test_a_request_is_first_taken_for_one_of_them_all_then_for_itself():
    acceptance, good, bad, new = Acceptance(1), sequence("good"), sequence("bad"), sequence("new")
    for _ in range(60):
        acceptance.tick()
        acceptance.observe(good, 0, 4, 4)
        acceptance.observe(bad, 0, 4, 0)
    assert acceptance.of(good, 0) > 0.9
    assert acceptance.of(bad, 0) < 0.2
    assert acceptance.of(new, 0) == pytest.approx(0.8, abs=0.05), "4 of 5 drafts that were judged"


def test_drafts_after_the_first_that_fell_are_not_judged():
    acceptance, one = Acceptance(1), sequence("a")
    for _ in range(300):
        acceptance.observe(one, 0, 8, 1)
    assert acceptance.of(one, 0) == pytest.approx(0.5, abs=0.01)


def test_kinds_are_told_apart():
    acceptance, one = Acceptance(2), sequence("a")
    for _ in range(300):
        acceptance.observe(sequence("x"), 0, 2, 2)
        acceptance.observe(sequence("y"), 1, 2, 0)
    assert (acceptance.of(one, 0), acceptance.of(one, 1)) == pytest.approx((0.98, 0.0), abs=0.02)
    assert acceptance.best == 0.98


def test_a_bad_stretch_is_forgotten_so_that_the_request_is_tried_again():
    acceptance, one = Acceptance(1), sequence("a")
    for _ in range(10):
        acceptance.tick()
        acceptance.observe(one, 0, 4, 0)
    after = acceptance.of(one, 0)
    for _ in range(200):
        acceptance.tick()
        acceptance.observe(sequence("b"), 0, 4, 4)
    assert after < 0.4
    assert acceptance.of(one, 0) > 0.9
