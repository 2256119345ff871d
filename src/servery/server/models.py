"""`/v1/models` and `/v1/models/{id}`, in OpenAI's words or, to its clients, in Anthropic's."""

import msgspec

from servery.server.adapters import unload_adapter
from servery.server.aliases import whole_names
from servery.server.service import Exchange, Service
from servery.wire.anthropic_models import (
    encode_anthropic_model,
    encode_anthropic_models,
    is_anthropic,
    read_model_page,
)
from servery.wire.errors import invalid, shown
from servery.wire.models import Model, encode_deleted, encode_model, encode_models


async def models(service: Service, exchange: Exchange) -> None:
    """All models, ready or not, each followed by its adapters; then the aliases, but for `*`."""
    upstreams = service.upstreams.values()
    every = [model for upstream in upstreams for model in (upstream.model(), *upstream.adapters().values())]
    known = {model.id: model for model in every}
    # An alias of an adapter that is not loaded now is left out.
    aliases = whole_names(service.options.aliases).items()
    stand_ins = [_called(alias, known[target]) for alias, target in aliases if target in known]
    listed = [each for each in (*every, *stand_ins) if service.is_for(exchange.caller, each.id)]
    if is_anthropic(exchange.request.headers):
        page, has_more = read_model_page(exchange.request.query).of(listed)
        await exchange.reply.whole(encode_anthropic_models(page, has_more=has_more))
    else:
        await exchange.reply.whole(encode_models(listed))


async def model(service: Service, exchange: Exchange) -> None:
    """One model, adapter or alias; its id may contain slashes."""
    asked = exchange.arguments["id"]
    name, base = service.located(asked, exchange.caller)
    upstream = service.upstreams[base]
    found = upstream.model() if name == upstream.name else upstream.adapters()[name.rpartition(":")[2]]
    told = found if name == asked else _called(asked, found)
    encode = encode_anthropic_model if is_anthropic(exchange.request.headers) else encode_model
    await exchange.reply.whole(encode(told))


async def delete(service: Service, exchange: Exchange) -> None:
    """Unload an adapter: here that is what a fine-tuned model is, and no other can be deleted."""
    asked = exchange.arguments["id"]
    name, base_name = service.located(asked)
    base = service.upstreams[base_name]
    if name == base.name:
        message = (
            f"The model '{shown(asked)}' is no adapter, and nothing else can be deleted; POST /v1/models/unload takes it "
            "out of memory."
        )
        raise invalid(message, "model", "not_deletable")
    unload_adapter(service, base, name.rpartition(":")[2])
    await exchange.reply.whole(encode_deleted(asked))


def _called(alias: str, model: Model) -> Model:
    return msgspec.structs.replace(model, id=alias)
