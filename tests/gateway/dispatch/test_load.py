"""A load counts what is under way, and is empty again when everything is over."""

import random

import pytest

from servery.gateway.dispatch.load import Answering, Load


def test_it_is_the_sum_of_what_is_under_way() -> None:
    load, draw = Load(), random.Random(6)
    waiting: list[int] = []
    answering: list[int] = []
    for _ in range(500):
        action = draw.randrange(4)
        if action == 0:
            waiting.append(tokens := draw.randrange(1, 100))
            load.begin(tokens)
        elif action == 1 and waiting:
            answering.append(waiting.pop())
            load.first_token(answering[-1])
        elif action == 2 and waiting:
            load.end(waiting.pop(), had_first_token=False)
        elif action == 3 and answering:
            load.end(answering.pop(), had_first_token=True)
        assert load == Load(prefilling=len(waiting), decoding=len(answering), prefill_tokens=sum(waiting))
        assert load.in_flight == len(waiting) + len(answering)


def test_of_answers_under_way_each_knows_how_many_there_were_meanwhile() -> None:
    answering = Answering()
    first = answering.begin(10.0)
    second = answering.begin(12.0)
    assert answering.end(first, 10.0, 14.0) == pytest.approx(1.5)  # two seconds alone, two with the other
    third = answering.begin(20.0)
    assert answering.end(second, 12.0, 22.0) == pytest.approx((2 * 2 + 6 * 1 + 2 * 2) / 10)
    assert answering.end(third, 20.0, 22.0) == 2.0
    assert answering.count == 0


def test_an_answer_that_took_no_time_was_among_those_of_that_moment() -> None:
    answering = Answering()
    answering.begin(1.0)
    assert answering.end(answering.begin(1.0), 1.0, 1.0) == 2.0
