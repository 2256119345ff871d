"""The search ends at the true capacity, and says no more than its runs have shown."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.bench.attainment import attained
from servery.bench.capacity import CapacitySearch, Trial, Verdict, fewest_requests, is_lost, judge


def search(true_capacity: float, start: float = 1.0, **options: float) -> CapacitySearch:
    """Every run tells the truth."""
    found = CapacitySearch(start, **options)
    while (rate := found.next_rate) is not None:
        kept = rate <= true_capacity
        got = attained([kept] * 1000)
        found.tell(Trial(rate, got, judge(got, 0.99, is_backlog_growing=False)))
    return found


@given(st.floats(0.05, 400), st.sampled_from([0.05, 0.2]))
def test_the_capacity_is_bracketed_to_the_precision(capacity: float, precision: float) -> None:
    found = search(capacity, precision=precision, most_trials=40)
    assert found.kept is not None
    assert found.kept.rate <= capacity < found.broken_rate <= found.kept.rate * (1 + precision)


def test_a_server_that_keeps_it_at_no_rate_ends_the_search() -> None:
    assert search(0.0, most_trials=100).kept is None
    assert len(search(0.0, most_trials=6).trials) == 6


def test_a_higher_rate_that_was_kept_by_luck_counts_for_nothing() -> None:
    found = CapacitySearch(1.0)
    got = attained([True] * 1000)
    for rate, verdict in ((1.0, Verdict.KEPT), (2.0, Verdict.BROKEN), (4.0, Verdict.KEPT)):
        found.tell(Trial(rate, got, verdict))
    assert (found.kept, found.broken_rate) == (found.trials[0], 2.0)


def test_all_kept_leaves_the_capacity_open() -> None:
    found = search(math.inf, most_trials=5)
    assert found.kept is not None
    assert (found.kept.rate, found.broken_rate) == (16.0, math.inf)


@pytest.mark.parametrize(
    ("good", "n", "growing", "verdict"),
    [
        (400, 400, False, Verdict.KEPT),
        (400, 400, True, Verdict.BROKEN),
        (398, 400, False, Verdict.UNCLEAR),
        (380, 400, False, Verdict.BROKEN),
    ],
)
def test_a_rate_is_kept_only_when_the_lower_bound_says_so(good: int, n: int, growing: bool, verdict: Verdict) -> None:
    got = attained([True] * good + [False] * (n - good))
    assert judge(got, 0.99, is_backlog_growing=growing) is verdict


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_fewer_requests_than_the_fewest_cannot_show_it_and_as_many_can(target: float) -> None:
    n = fewest_requests(target)
    assert attained([True] * n).low >= target > attained([True] * (n - 1)).low


def test_a_run_is_given_up_only_when_nothing_could_save_it() -> None:
    """Looking at every miss does not make a false alarm more likely: the last look decides all earlier ones."""
    for misses in range(60):
        best = attained([True] * (400 - misses) + [False] * misses)
        assert is_lost(misses, 400, 0.95) == (judge(best, 0.95, is_backlog_growing=False) is Verdict.BROKEN)


def test_a_noisy_server_is_found_within_a_tenth() -> None:
    """A queue without memory that misses more the nearer to its limit; 30 searches with 400 requests a run."""

    def share(rate: float) -> float:
        return 1.0 if rate < 8 else max(0.0, 1 - (rate - 8) / 8)

    source, found = random.Random(5), []
    for _ in range(30):
        one = CapacitySearch(1.0)
        while (rate := one.next_rate) is not None:
            got = attained([source.random() < share(rate) for _ in range(400)])
            one.tell(Trial(rate, got, judge(got, 0.95, is_backlog_growing=False)))
        assert one.kept is not None
        found.append(one.kept.rate)
    assert max(found) <= 8.4 * 1.02  # where the share is 0.95, and the chance left by the bound
    assert min(found) >= 8.0 * 0.9
