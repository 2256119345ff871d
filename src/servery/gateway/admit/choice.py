"""Which model answers, and whether its caller may have it."""

from servery.gateway.exchange import Exchange
from servery.wire.errors import model_not_found


def choose(exchange: Exchange) -> None:
    """The model that the client names; raises `ApiError` (404) naming those that it may have.

    What a key may not have is as if it were not there: it learns of no other model by asking. A key's models are what its
    client may name: another model that stands in for one of them is the operator's choice.
    """
    ask, fleet = exchange.ask, exchange.fleet
    if ask.caller.is_bound and not fleet.is_for(ask.caller, ask.base, ask.model, ask.head.model):
        raise model_not_found(ask.head.model, [name for name in fleet.models if fleet.is_for(ask.caller, name)])
    exchange.choose(fleet.served(ask.base))
