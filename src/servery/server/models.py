"""`GET /v1/models` and `/v1/models/{id}`."""

from servery.server.service import Exchange, Service
from servery.wire.models import encode_model, encode_models


async def models(service: Service, exchange: Exchange) -> None:
    """All models, ready or not, each followed by its adapters."""
    upstreams = service.upstreams.values()
    every = [model for upstream in upstreams for model in (upstream.model(), *upstream.adapters().values())]
    await exchange.reply.whole(encode_models(every))


async def model(service: Service, exchange: Exchange) -> None:
    """One model or adapter; its id may contain slashes."""
    name = exchange.arguments["id"]
    upstream = service.upstream(name)
    found = upstream.model() if name == upstream.name else upstream.adapters()[name.rpartition(":")[2]]
    await exchange.reply.whole(encode_model(found))
