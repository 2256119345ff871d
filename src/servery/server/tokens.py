"""`POST /tokenize`, `/detokenize` and `/v1/messages/count_tokens`."""

from servery.server.service import Exchange, Service, only_model
from servery.wire.anthropic import decode_anthropic_count
from servery.wire.anthropic_answer import encode_count
from servery.wire.tokenize import decode_detokenize, decode_tokenize


async def tokenize(service: Service, exchange: Exchange) -> None:
    """Cut a text or a chat into tokens."""
    request = decode_tokenize(await exchange.body(service.options))
    upstream = service.upstream_for(exchange.caller, only_model(service, request.model, exchange.caller))
    await exchange.reply.whole(await upstream.tokenize(request))


async def detokenize(service: Service, exchange: Exchange) -> None:
    """Turn tokens into text."""
    request = decode_detokenize(await exchange.body(service.options))
    upstream = service.upstream_for(exchange.caller, only_model(service, request.model, exchange.caller))
    await exchange.reply.whole(await upstream.detokenize(request))


async def count(service: Service, exchange: Exchange) -> None:
    """How many tokens a conversation has as the model sees it."""
    request = decode_anthropic_count(await exchange.body(service.options))
    upstream = service.upstream_for(exchange.caller, request.model)
    tokens = await upstream.count(service.addressed(request).chat())
    await exchange.reply.whole(encode_count(tokens))
