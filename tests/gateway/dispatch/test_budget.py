import random

import pytest

from servery.gateway.dispatch.budget import RetryBudget


def test_retries_are_a_share_of_the_traffic_and_a_few_besides() -> None:
    budget = RetryBudget(0.2, reserve=3)
    for _ in range(10):
        budget.count(100.0)
    assert [budget.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert budget.refused == 1


def test_without_traffic_there_is_the_reserve_again_after_ten_seconds() -> None:
    budget = RetryBudget(0.0, reserve=2)
    assert [budget.take(100.0) for _ in range(3)] == [True, True, False]
    assert budget.take(110.0)


@pytest.mark.parametrize("seed", range(10))
def test_a_retry_is_allowed_just_when_the_last_ten_seconds_have_room_for_it(seed: int) -> None:
    chance = random.Random(seed)
    ratio, reserve = chance.choice((0.0, 0.1, 0.5)), chance.choice((0, 1, 5))
    budget, now = RetryBudget(ratio, reserve), 0.0
    requests: list[float] = []
    retries: list[float] = []

    def recent(times: list[float]) -> int:
        return sum(int(at) > int(now) - 10 for at in times)  # by whole seconds: the last nine to ten

    for _ in range(500):
        now += chance.expovariate(3.0)
        requests.append(now)
        budget.count(now)
        while chance.random() < 0.6:
            has_room = recent(retries) < reserve + ratio * recent(requests)
            assert budget.take(now) is has_room
            retries += [now] * has_room
