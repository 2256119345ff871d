"""Which model answers, and whether its caller may have it."""

from servery.gateway.exchange import Exchange
from servery.wire.errors import ApiError, shown


def choose(exchange: Exchange) -> None:
    """The model that the client names; raises `ApiError`: 404 naming those that are served, 403 for one it may not have.

    A key's models are what its client may name: another model that stands in for one of them is the operator's choice.
    """
    ask, caller = exchange.ask, exchange.ask.caller
    if not caller.may_ask(ask.base, ask.model, ask.head.model):
        raise not_allowed(ask.head.model)
    exchange.choose(exchange.fleet.served(ask.base))
    if caller.tiers is not None and not exchange.model.tiers:
        listed = ", ".join(sorted(tier.value for tier in caller.tiers))
        message = (
            f"The API key may use these tiers only: {listed}; the model '{exchange.model.name}' runs at none of them."
        )
        raise ApiError(403, message, kind="permission_error", code="tier_not_allowed", param="model")


def not_allowed(model: str) -> ApiError:
    """403: a model that the key may not ask for, whether it is served or not."""
    message = f"The API key may not ask for the model '{shown(model)}'. GET /v1/models lists those that it may."
    return ApiError(403, message, kind="permission_error", code="model_not_allowed", param="model")
