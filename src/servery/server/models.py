"""`GET /v1/models` and `/v1/models/{id}`."""

from servery.server.service import Exchange, Service
from servery.wire.models import encode_model, encode_models


async def models(service: Service, exchange: Exchange) -> None:
    """All models, ready or not."""
    await exchange.reply.whole(encode_models([upstream.model() for upstream in service.upstreams.values()]))


async def model(service: Service, exchange: Exchange) -> None:
    """One model; its id may contain slashes."""
    await exchange.reply.whole(encode_model(service.upstream(exchange.arguments["id"]).model()))
