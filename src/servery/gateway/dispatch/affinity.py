"""Prefix affinity with bounded load: a prompt goes where its beginning has been, unless that deployment is too busy.

The bound is that of consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2018): no deployment has
more than `1 + SLACK` times its share.
"""

import math
from collections.abc import Mapping, Sequence

from servery.gateway.dispatch.load import Load
from servery.gateway.dispatch.prefixes import Prefix, PrefixIndex, rendezvous

SLACK = 0.25


def by_affinity(names: Sequence[str], loads: Mapping[str, Load], index: PrefixIndex, prefix: Prefix) -> list[str]:
    """`names` from the best place for the prompt to the worst.

    In front those below the bound, of these the ones that were sent most of the prompt before, among equals in the order
    that the prompt's first block gives; behind them the busy ones, the least busy first.
    """
    if not names:
        return []
    most = bound([loads[name].in_flight for name in names])
    order = rendezvous(names, prefix[0]) if prefix else sorted(names, key=lambda name: loads[name].in_flight)
    rank = {name: at for at, name in enumerate(order)}
    free = [name for name in names if loads[name].in_flight < most]
    busy = [name for name in names if loads[name].in_flight >= most]
    free.sort(key=lambda name: (-index.matched(name, prefix), rank[name]))
    return free + sorted(busy, key=lambda name: (loads[name].in_flight, rank[name]))


def bound(in_flight: Sequence[int]) -> int:
    """The most exchanges that one deployment may have, with the one that is to be placed."""
    return math.ceil((1.0 + SLACK) * (sum(in_flight) + 1) / len(in_flight))
