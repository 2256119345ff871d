"""`POST /tokenize` and `/detokenize`."""

from servery.server.service import Exchange, Service, only_model
from servery.wire.tokenize import decode_detokenize, decode_tokenize


async def tokenize(service: Service, exchange: Exchange) -> None:
    """Cut a text or a chat into tokens."""
    request = decode_tokenize(await exchange.body(service.options))
    upstream = service.upstream(only_model(service, request.model))
    await exchange.reply.whole(await upstream.tokenize(request))


async def detokenize(service: Service, exchange: Exchange) -> None:
    """Turn tokens into text."""
    request = decode_detokenize(await exchange.body(service.options))
    upstream = service.upstream(only_model(service, request.model))
    await exchange.reply.whole(await upstream.detokenize(request))
