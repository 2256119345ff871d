"""A load counts what is under way, and is empty again when everything is over."""

import random

from servery.gateway.dispatch.load import Load


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
