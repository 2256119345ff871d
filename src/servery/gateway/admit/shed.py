"""Requests that would wait longer than anybody wants them are refused at once, with the time after which to ask again."""

import math

from servery.gateway.dispatch.deployment import Deployment, Standing
from servery.gateway.dispatch.served import Served
from servery.gateway.exchange import Exchange
from servery.wire.errors import rate_limited


def shed(exchange: Exchange) -> None:
    """Raise `ApiError` (429) if every deployment of the model is full and the wait for each is longer than allowed.

    A model that answers in its place when it fails does so now, if it has a place at once. Interactive requests (priority 0 or less) wait up to the limit for their turn, those in the background not at all:
    who sends them asks again when there is room.
    """
    served = exchange.model
    for each in served.deployments:
        if each.slots.is_free:
            return
    least_s = _least_wait_s(served)
    patience_s = served.config.timeouts.turn_s if exchange.ask.priority <= 0 else 0.0
    if least_s <= patience_s:
        return
    for name in served.config.fallbacks.error:
        other = exchange.fleet.served(name)
        if any(each.standing() is Standing.FREE for each in other.deployments):
            exchange.turn_to(other)
            return
    message = (
        f"The model '{served.name}' is busy: a new request would wait about {least_s:.1f} s for its turn, and at most "
        f"{patience_s:g} s are allowed."
    )
    raise rate_limited(message, math.ceil(least_s))


def _least_wait_s(served: Served) -> float:
    return min([_wait_s(each) for each in served.deployments], default=0.0)


def _wait_s(deployment: Deployment) -> float:
    """The predicted wait for a place; 0 where the request would not wait for one."""
    wait_s = deployment.slots.predicted_wait_s
    return wait_s if wait_s and deployment.standing() is Standing.BUSY else 0.0
