"""Which model answers."""

from servery.gateway.exchange import Exchange


def choose(exchange: Exchange) -> None:
    """The model that the client names; raises `ApiError` (404) naming those that are served."""
    exchange.served = exchange.fleet.served(exchange.ask.base)
