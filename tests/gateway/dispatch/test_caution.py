"""Caution rests where the promised share of the requests is in time."""

import random

import pytest

from servery.gateway.dispatch.caution import Caution


@pytest.mark.parametrize("attainment", [0.8, 0.95, 0.99])
def test_the_promised_share_is_kept_and_not_much_more(attainment: float) -> None:
    caution, draw, in_time = Caution(attainment), random.Random(1), 0
    for at in range(12_000):
        is_in_time = draw.random() < 0.7 + 0.3 * caution.value  # the more caution the fewer misses
        caution.learn(is_in_time=is_in_time)
        in_time += is_in_time and at >= 2_000
    assert in_time / 10_000 == pytest.approx(attainment, abs=0.012)


def test_it_stays_between_the_mean_and_the_whole_margin() -> None:
    caution = Caution(0.9)
    caution.learn(is_in_time=False)
    assert caution.value == 1.0
    for _ in range(1_000):
        caution.learn(is_in_time=True)
    assert caution.value == 0.0
    caution.learn(is_in_time=False)
    assert caution.value == pytest.approx(0.18)


def test_one_more_may_be_late_when_enough_were_in_time_since_the_last_one() -> None:
    caution = Caution(0.75)
    assert caution.may_miss
    told = []
    for is_in_time in (False, True, True, True, False, True, True, True, True, True):
        caution.learn(is_in_time=is_in_time)
        told.append(caution.may_miss)
    assert told == [False, False, False, False, False, False, False, False, True, True]
