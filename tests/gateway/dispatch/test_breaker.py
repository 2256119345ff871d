import itertools
import random

import pytest

from servery.gateway.dispatch.breaker import TRANSITIONS, Breaker, BreakerPolicy, Event, State

POLICY = BreakerPolicy(window_s=30.0, least_volume=4, failure_rate=0.5, consecutive=3, open_s=5.0, most_open_s=20.0)


def opened(at_s: float = 100.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        breaker.fail(at_s, is_probe=breaker.enter(at_s))
    return breaker


def test_the_table_has_no_way_from_closed_to_half_open_and_none_out_of_open_but_a_probe() -> None:
    ways = {(state, event): after for (state, event), after in TRANSITIONS.items() if after is not state}
    assert ways == {
        (State.CLOSED, Event.TRIP): State.OPEN,
        (State.OPEN, Event.PROBE): State.HALF_OPEN,
        (State.HALF_OPEN, Event.SUCCESS): State.CLOSED,
        (State.HALF_OPEN, Event.TRIP): State.OPEN,
        (State.HALF_OPEN, Event.PROBE_LOST): State.OPEN,
    }


def test_failures_in_a_row_open_it_and_nothing_is_let_through() -> None:
    breaker = opened()
    assert (breaker.state, breaker.admits(104.9), breaker.retry_after_s(101.0)) == (State.OPEN, False, 4.0)
    with pytest.raises(ValueError, match="lets nothing through"):
        breaker.enter(101.0)
    assert (breaker.state, breaker.opened) == (State.OPEN, 1)


def test_a_success_in_between_begins_the_row_anew() -> None:
    breaker = Breaker(POLICY)
    for is_well in (False, False, *[True] * 5, False, False):
        (breaker.succeed if is_well else breaker.fail)(100.0, is_probe=False)
    assert breaker.state is State.CLOSED


def test_a_share_of_failures_opens_it_only_at_the_least_volume() -> None:
    breaker = Breaker(POLICY)
    breaker.fail(100.0, is_probe=False)
    breaker.succeed(100.0, is_probe=False)
    assert breaker.state is State.CLOSED  # half of two
    breaker.succeed(100.0, is_probe=False)
    breaker.fail(100.0, is_probe=False)
    assert breaker.state is State.OPEN  # half of four


def test_failures_that_the_window_has_forgotten_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for at_s, is_well in ((100.0, False), (100.0, True), (100.0, True), (140.0, False)):
        (breaker.succeed if is_well else breaker.fail)(at_s, is_probe=False)
    assert breaker.state is State.CLOSED


def test_half_open_admits_one_probe() -> None:
    breaker = opened()
    assert breaker.enter(105.0)
    assert (breaker.state, breaker.admits(1e9)) == (State.HALF_OPEN, False)


def test_a_probe_that_succeeds_closes_it_and_the_past_is_forgotten() -> None:
    breaker = opened()
    breaker.succeed(106.0, is_probe=breaker.enter(105.0))
    assert (breaker.state, breaker.failure_rate(106.0)) == (State.CLOSED, (0.0, 0))


def test_each_probe_that_fails_doubles_the_time_up_to_the_most() -> None:
    breaker, now, waits = opened(), 100.0, []
    for _ in range(5):
        waits.append(breaker.retry_after_s(now))
        now += waits[-1]
        breaker.fail(now, is_probe=breaker.enter(now))
    assert waits == [5.0, 10.0, 20.0, 20.0, 20.0]


def test_a_probe_whose_client_has_gone_lets_the_next_one_through() -> None:
    breaker = opened()
    breaker.leave(is_probe=breaker.enter(105.0))
    assert (breaker.state, breaker.admits(105.0)) == (State.OPEN, True)


def test_an_answer_that_began_before_neither_closes_nor_prolongs_it() -> None:
    breaker = opened()
    breaker.succeed(101.0, is_probe=False)
    breaker.fail(102.0, is_probe=False)
    assert (breaker.state, breaker.retry_after_s(102.0), breaker.opened) == (State.OPEN, 3.0, 1)


def test_one_that_is_ejected_opens_whatever_its_own_figures_say() -> None:
    breaker = Breaker(POLICY)
    breaker.eject(100.0)
    breaker.eject(103.0)
    assert (breaker.state, breaker.retry_after_s(103.0), breaker.opened) == (State.OPEN, 2.0, 1)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_there_is_one_probe_and_no_move_that_the_table_does_not_have(seed: int) -> None:
    chance = random.Random(seed)
    breaker, now, under_way = Breaker(POLICY), 0.0, list[bool]()
    for _ in range(500):
        now += chance.choice((0.0, 0.5, 6.0))
        before = breaker.state
        if chance.random() < 0.5 and breaker.admits(now):
            under_way.append(breaker.enter(now))
            allowed = {before, TRANSITIONS.get((before, Event.PROBE))}
        elif under_way:
            is_probe = under_way.pop(chance.randrange(len(under_way)))
            kind = chance.randrange(3)
            if kind == 0:
                breaker.succeed(now, is_probe=is_probe)
            elif kind == 1:
                breaker.fail(now, is_probe=is_probe)
            else:
                breaker.leave(is_probe=is_probe)
            allowed = {before, *(TRANSITIONS.get((before, event)) for event in Event)}
        else:
            breaker.eject(now)
            allowed = {before, TRANSITIONS.get((before, Event.TRIP))}
        assert breaker.state in allowed
        assert sum(under_way) == (breaker.state is State.HALF_OPEN)
        assert breaker.retry_after_s(now) <= POLICY.most_open_s


def test_every_pair_that_is_not_in_the_table_cannot_be_reached() -> None:
    missing = {pair for pair in itertools.product(State, Event) if pair not in TRANSITIONS}
    assert missing == {
        (State.CLOSED, Event.PROBE),
        (State.CLOSED, Event.PROBE_LOST),
        (State.OPEN, Event.PROBE_LOST),
        (State.HALF_OPEN, Event.PROBE),
    }
