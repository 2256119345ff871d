"""`GET /v1/config` and `POST /v1/config/reload`: which configuration is in force, and to read its file again."""

from typing import Any

import msgspec

from servery.config.errors import ConfigError
from servery.gateway.dispatch.deployment import Deployment
from servery.server.option_error import OptionError
from servery.server.service import Exchange, Service
from servery.wire.errors import ApiError


async def show(service: Service, exchange: Exchange) -> None:
    """The generation, the models with their tiers, and how each deployment is now; no secret."""
    await exchange.reply.whole(msgspec.json.encode(_shown(service)))


async def reload(service: Service, exchange: Exchange) -> None:
    """Read the file again; 409 without one, 422 with every fault for one that cannot be used."""
    if service.reload is None:
        message = "This server was started without --config, so there is no file to read again."
        raise ApiError(409, message, code="no_configuration")
    try:
        await service.reload()
    except (ConfigError, OptionError) as error:
        raise ApiError(422, str(error), code="invalid_configuration", is_final=True) from error
    await exchange.reply.whole(msgspec.json.encode(_shown(service)))


def _shown(service: Service) -> dict[str, Any]:
    fleet = service.gateway.fleet
    models = {
        name: {
            "place": served.config.place.value,
            "tiers": [[each.name for each in tier] for tier in served.tiers],
        }
        for name, served in fleet.models.items()
    }
    deployments = {name: _deployment(each) for name, each in fleet.deployments.items()}
    return {"object": "config", "generation": fleet.config.generation, "models": models, "deployments": deployments}


def _deployment(deployment: Deployment) -> dict[str, Any]:
    config, health = deployment.config, deployment.upstream.health()
    return {
        "kind": config.kind.value,
        "tier": config.tier.value,
        "model": config.model,
        "standing": deployment.standing().name.lower(),
        "is_ready": health.is_ready,
        "reason": "" if health.is_ready else health.reason,
        "in_flight": deployment.slots.in_flight,
        "waiting": deployment.slots.waiting,
        "breaker": deployment.breaker.state.value,
    }
