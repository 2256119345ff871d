"""Why an exchange went where it went, in a line that can be read and searched. Pure."""

import functools

from servery.gateway.exchange import Exchange


def route_of(exchange: Exchange) -> str | None:
    """The placement, the tier and the reason for the last deployment; None if none was asked.

    `place=least-load tier=1/2 why=load after=reset`: the first of two tiers, the less busy one, after another attempt had
    been reset.
    """
    if not exchange.attempts or exchange.served is None:
        return None
    attempt, served = exchange.attempts[-1], exchange.served
    before = exchange.attempts[-2] if len(exchange.attempts) > 1 else None
    after = "" if before is None else before.result
    at = served.tier_of.get(attempt.deployment.name, 0)
    return _route(served.placed_by, at, len(served.tiers), "hedge" if attempt.is_hedge else attempt.why, after)


@functools.lru_cache(maxsize=1024)
def _route(place: str, tier: int, tiers: int, why: str, after: str) -> str:
    parts = [f"place={place}", f"tier={tier}/{tiers}"]
    parts += [f"{name}={value}" for name, value in (("why", why), ("after", after)) if value]
    return " ".join(parts)
