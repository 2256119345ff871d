"""Models come and go because somebody says so: `/sleep`, `/wake_up`, `/v1/models/load`, `/v1/models/unload`.

What was begun is seen through, also if the client does not wait for it.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from servery.engine.errors import CannotSleep, EngineError
from servery.server.interrupt import Reason
from servery.server.service import Exchange, Service, only_model
from servery.telemetry.residency import ModelState
from servery.upstream.caller import Caller
from servery.upstream.residence import Busy, Residence
from servery.wire.errors import ApiError, invalid, model_not_found
from servery.wire.models import encode_model, encode_models
from servery.wire.residence import SleepQuery, decode_named_model, encode_is_sleeping, read_sleep_query


async def load(service: Service, exchange: Exchange) -> None:
    """Bring a model into memory, also one that came into the folder of models since the start."""
    request = decode_named_model(await exchange.body(service.options))
    exchange.subject = request.model or ""
    name = only_model(service, request.model)
    await service.look_for(name)
    residence = _chosen(service, name)[0]
    await _come(residence)
    await exchange.reply.whole(encode_model(service.place(residence.name).model()))


async def unload(service: Service, exchange: Exchange) -> None:
    """Take a model out of memory until somebody loads it; answers under way have the time of a shutdown to end."""
    request = decode_named_model(await exchange.body(service.options))
    exchange.subject = request.model or ""
    residence = _chosen(service, only_model(service, request.model))[0]
    await residence.unload(service.options.drain_timeout_s)
    await exchange.reply.whole(encode_model(service.place(residence.name).model()))


async def sleep(service: Service, exchange: Exchange) -> None:
    """Let one model sleep, or all, once their answers under way have ended; the next request wakes them."""
    asked = await _asked(service, exchange, "level", "model")
    exchange.subject = f"{asked.model or 'all'} to level {asked.level}"
    going = _chosen(service, asked.model)
    if asked.model is not None and going[0].state is ModelState.UNLOADED:
        raise _conflict(f"The model '{asked.model}' is not loaded; what is not there cannot sleep.", "model_not_loaded")
    await asyncio.gather(*(_go_to_sleep(each, asked.level, service.options.drain_timeout_s) for each in going))
    await _tell(service, exchange, going)


async def wake_up(service: Service, exchange: Exchange) -> None:
    """Wake one model, or all that sleep."""
    asked = await _asked(service, exchange, "model")
    exchange.subject = asked.model or "all"
    chosen = _chosen(service, asked.model)
    if asked.model is not None and chosen[0].state is ModelState.UNLOADED:
        raise _conflict(
            f"The model '{asked.model}' is not asleep but unloaded: POST /v1/models/load.", "model_not_loaded"
        )
    for each in chosen:
        if each.state in (ModelState.SLEEPING, ModelState.RELEASING):
            await _come(each)
    await _tell(service, exchange, chosen)


async def is_sleeping(service: Service, exchange: Exchange) -> None:
    """Whether a model sleeps; without a name whether all do that are not unloaded."""
    asked = read_sleep_query(exchange.request.query, "model")
    states = {each.state for each in _seen(service, exchange.caller, asked.model)} - {ModelState.UNLOADED}
    await exchange.reply.whole(encode_is_sleeping(is_sleeping=states == {ModelState.SLEEPING}))


async def _asked(service: Service, exchange: Exchange, *known: str) -> SleepQuery:
    """What the query says; raises `ApiError`, also for a body, which these calls have none of."""
    if (await exchange.request.body(service.options.max_body_bytes)).strip() not in (b"", b"{}"):
        names = " and ".join(f"'{name}'" for name in known)
        raise invalid(f"This call has no body: {names} go into the query, as in {exchange.request.path}?model=NAME.")
    exchange.interrupt.fire_after(service.options.request_timeout_s, Reason.TIMEOUT)
    return read_sleep_query(exchange.request.query, *known)


def _chosen(service: Service, model: str | None) -> list[Residence]:
    if model is None:
        return list(service.residences.values())
    if model not in service.residences:
        raise model_not_found(model, service.residences)
    return [service.residences[model]]


def _seen(service: Service, caller: Caller, model: str | None) -> list[Residence]:
    """Those that a caller may know of: the places of its models, at its tiers."""
    if not caller.is_bound:
        return _chosen(service, model)
    fleet = service.gateway.fleet
    places = {
        place.name
        for name, served in fleet.models.items()
        if fleet.is_for(caller, name)
        for place in served.deployments
        if caller.tiers is None or place.config.tier in caller.tiers
    }
    known = {name: each for name, each in service.residences.items() if name in places}
    if model is None:
        return list(known.values())
    if model not in known:
        raise model_not_found(model, known)
    return [known[model]]


async def _come(residence: Residence) -> None:
    try:
        await residence.load()
    except (EngineError, OSError) as error:
        message = f"The model '{residence.name}' could not be loaded: {error}"
        raise ApiError(503, message, kind="server_error", code="model_load_failed", is_final=True) from error


async def _go_to_sleep(residence: Residence, level: int, patience_s: float) -> None:
    with _reasons(residence.name, patience_s):
        await residence.sleep(level, patience_s)


@contextlib.contextmanager
def _reasons(name: str, patience_s: float) -> Iterator[None]:
    """Inside, what keeps a model from sleeping becomes what the client is told."""
    try:
        yield
    except Busy as error:
        message = f"The model '{name}' stays awake: {error} after {patience_s:g} s (--drain-timeout)."
        raise _conflict(message, "model_busy") from error
    except CannotSleep as error:
        raise _conflict(f"The model '{name}' stays awake: {error}", "cannot_sleep") from error


async def _tell(service: Service, exchange: Exchange, residences: list[Residence]) -> None:
    await exchange.reply.whole(encode_models([service.place(each.name).model() for each in residences]))


def _conflict(message: str, code: str) -> ApiError:
    return ApiError(409, message, code=code, is_final=True)
