"""Deployments that fail far more than their peers: they are let alone although their own breaker would wait."""

import statistics
from collections.abc import Sequence

from servery.gateway.dispatch.deployment import Deployment

LEAST_PEERS = 3
LEAST_VOLUME = 5
LEAST_GAP = 0.2
FACTOR = 3.0
MOST_AWAY = 0.5


def outliers(peers: Sequence[Deployment], now: float) -> list[Deployment]:
    """Those whose share of failures lately is 0.2 above, and three times, the mean of their peers'; the worst first.

    Among at least three deployments with at least five answers each; never are more than half of all `peers` away. (With
    so few, distances in standard deviations, as Envoy takes them, cannot become large: at most sqrt(n - 1).)
    """
    rates = {each.name: each.breaker.failure_rate(now) for each in peers if each.breaker.admits(now)}
    known = {name: rate for name, (rate, volume) in rates.items() if volume >= LEAST_VOLUME}
    if len(known) < LEAST_PEERS:
        return []
    room = int(len(peers) * MOST_AWAY) - (len(peers) - len(rates))
    found = [each for each in peers if each.name in known and _is_far(each.name, known)]
    return sorted(found, key=lambda each: -known[each.name])[: max(0, room)]


def _is_far(name: str, known: dict[str, float]) -> bool:
    others = statistics.fmean(rate for other, rate in known.items() if other != name)
    return known[name] >= others + LEAST_GAP and known[name] >= FACTOR * others
