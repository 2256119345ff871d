import random

from servery.gateway.dispatch.throttle import MOST_S, Throttle


def test_a_deployment_is_left_alone_as_long_as_it_asked_for() -> None:
    throttle = Throttle()
    assert not throttle.is_on(100.0)
    throttle.hold(100.0, 7.5)
    assert (throttle.is_on(107.4), throttle.retry_after_s(105.0), throttle.is_on(107.5)) == (True, 2.5, False)


def test_without_a_time_of_its_own_it_is_a_second_and_then_twice_as_long_each_time() -> None:
    throttle, waits = Throttle(), []
    for at in range(4):
        throttle.hold(1000.0 * at, None)
        waits.append(throttle.retry_after_s(1000.0 * at))
    throttle.succeed()
    throttle.hold(9000.0, None)
    assert (waits, throttle.retry_after_s(9000.0)) == ([1.0, 2.0, 4.0, 8.0], 1.0)


def test_no_answer_shortens_what_another_one_asked_for_and_nothing_lasts_for_ever() -> None:
    chance = random.Random(3)
    throttle, until = Throttle(), 0.0
    for _ in range(300):
        now, asked = chance.uniform(0, 100), chance.choice((0.0, -5.0, 3.0, 1e9))
        throttle.hold(now, asked)
        until = max(until, now + min(max(0.0, asked), MOST_S))
        assert throttle.until_s == until
