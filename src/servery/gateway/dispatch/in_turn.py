"""The rank of a request for which nothing keeps the SLO now: when it is its turn, and something does."""

from collections.abc import Callable

from servery.gateway.dispatch.place import Ranked
from servery.gateway.dispatch.turns import Turns

_LONGEST_LOOK_S = 1.0  # that a deployment is ready or no longer throttled wakes nobody


async def in_turn(
    turns: Turns, priority: int, arrived_s: float, rank: Callable[[], Ranked], left_s: Callable[[], float]
) -> Ranked:
    """What `rank` gives as soon as it names no wait, asked when nobody is before this one, and something has changed.

    `left_s` is how long it may wait on; what it raises ends that. Raises `TurnsFull`.
    """
    with turns.turn(priority, arrived_s) as turn:
        while True:
            look_s = left_s()
            if turn.is_first:
                ranked = rank()
                if ranked.wait_s is None:
                    return ranked
                turns.clears_s = ranked.wait_s
                look_s = min(look_s, ranked.wait_s, _LONGEST_LOOK_S)
            await turn.until_woken(look_s)
