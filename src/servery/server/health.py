"""`/health` and `/ping`: restart me if this fails. `/ready`: send me requests. `/metrics`: what happened so far."""

import msgspec

from servery import __version__
from servery.server.lifecycle import RETRY_AFTER_S, draining
from servery.server.service import Exchange, Service
from servery.telemetry.metrics import CONTENT_TYPE
from servery.wire.errors import unavailable
from servery.wire.vllm import encode_version


async def health(service: Service, exchange: Exchange) -> None:
    """Whether every engine lives. One that is loading does; one that hung or died does not until it is back."""
    health = {name: upstream.health() for name, upstream in service.upstreams.items()}
    for name, state in health.items():
        if not state.is_alive:
            raise unavailable(f"The model '{name}' is down: {state.reason}.", RETRY_AFTER_S)
    ages = {name: state.heartbeat_age_s for name, state in health.items()}
    await exchange.reply.whole(msgspec.json.encode({"status": "ok", "heartbeat_age_s": ages}))


async def ready(service: Service, exchange: Exchange) -> None:
    """Whether every model takes requests now, but for those that somebody unloaded."""
    if service.lifecycle.is_draining:
        raise draining()
    health = {name: upstream.health() for name, upstream in service.upstreams.items()}
    for name, state in health.items():
        if state.is_wanted and not state.is_ready:
            raise unavailable(f"The model '{name}' takes no requests: {state.reason}.", RETRY_AFTER_S)
    taking = [name for name, state in health.items() if state.is_ready]
    await exchange.reply.whole(msgspec.json.encode({"status": "ready", "models": taking}))


async def version(service: Service, exchange: Exchange) -> None:
    """Which Servery this is, where vLLM's clients look for its version."""
    await exchange.reply.whole(encode_version(__version__))


async def metrics(service: Service, exchange: Exchange) -> None:
    """The figures for Prometheus, those of all workers."""
    page = await service.metrics_page() if service.siblings is None else await service.siblings.page()
    await exchange.reply.whole(page, content_type=CONTENT_TYPE)
