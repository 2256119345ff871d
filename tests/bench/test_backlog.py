"""Requests that pile up are told from those that come and go."""

import random

import pytest

from servery.bench.backlog import in_flight, is_growing


def queue(load: float, count: int, seed: int) -> tuple[list[float], list[float]]:
    """One server, Poisson arrivals, exponential service of mean 1 / (arrival rate) times `load`."""
    source, at, free = random.Random(seed), 0.0, 0.0
    starts, ends = [], []
    for _ in range(count):
        at += source.expovariate(1.0)
        free = max(free, at) + source.expovariate(1 / load)
        starts.append(at)
        ends.append(free)
    return starts, ends


def test_those_in_flight_are_counted_at_each_time() -> None:
    assert in_flight([0, 1, 4], [2, 3, 5], [0.5, 1.5, 2.5, 3.5, 4.5]) == [1, 2, 1, 0, 1]


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_server_that_keeps_up_seldom_looks_as_if_it_did_not(load: float) -> None:
    assert sum(is_growing(*queue(load, 400, seed)) for seed in range(100)) <= 5


def test_a_server_that_cannot_keep_up_shows_it() -> None:
    assert sum(is_growing(*queue(1.5, 400, seed)) for seed in range(100)) >= 95


def test_a_handful_of_requests_has_no_trend() -> None:
    assert not is_growing([0, 1, 2], [10, 11, 12])
