"""`/health`: restart me if this fails. `/ready`: send me requests. `/metrics`: what happened so far."""

import msgspec

from servery.server.lifecycle import RETRY_AFTER_S, draining
from servery.server.service import Exchange, Service
from servery.telemetry.metrics import CONTENT_TYPE
from servery.wire.errors import unavailable


async def health(service: Service, exchange: Exchange) -> None:
    """Whether every engine's loop has given a sign of life lately; one that is loading or restarting counts as alive."""
    ages = {name: upstream.health().heartbeat_age_s for name, upstream in service.upstreams.items()}
    limit_s = service.options.max_live_age_s
    for name, age_s in ages.items():
        if age_s > limit_s:
            message = f"The engine of '{name}' gave no sign of life for {age_s:.1f} s; the limit is {limit_s:g} s."
            raise unavailable(message, RETRY_AFTER_S)
    await exchange.reply.whole(msgspec.json.encode({"status": "ok", "heartbeat_age_s": ages}))


async def ready(service: Service, exchange: Exchange) -> None:
    """Whether every model takes requests now."""
    if service.lifecycle.is_draining:
        raise draining()
    for name, upstream in service.upstreams.items():
        state = upstream.health()
        if not state.is_ready:
            raise unavailable(f"The model '{name}' takes no requests: {state.reason}.", RETRY_AFTER_S)
    await exchange.reply.whole(msgspec.json.encode({"status": "ready", "models": list(service.upstreams)}))


async def metrics(service: Service, exchange: Exchange) -> None:
    """The figures for Prometheus."""
    await exchange.reply.whole(service.metrics.render(), content_type=CONTENT_TYPE)
