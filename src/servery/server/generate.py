"""`POST /generate`, `/generate_stream`, `/` and `GET /info`: the server as TGI's clients know it."""

import msgspec

from servery import __version__
from servery.server.answers import answer
from servery.server.service import Exchange, Service, only_model
from servery.upstream.ask import Api, Head
from servery.wire.errors import unsupported
from servery.wire.tgi import GenerateRequest, decode_generate, encode_info


async def generate(service: Service, exchange: Exchange) -> None:
    """Continue a text, and send the answer whole."""

    def read(body: bytes) -> Head:
        request = decode_generate(body)
        if request.stream:
            raise unsupported("stream", "'/generate' answers whole; ask '/generate_stream', or '/'.")
        return _head(service, exchange, request)

    await answer(service, exchange, Api.GENERATE, read=read)


async def stream(service: Service, exchange: Exchange) -> None:
    """Continue a text, and send each token as it comes."""

    def read(body: bytes) -> Head:
        request = msgspec.structs.replace(decode_generate(body), stream=True)
        request.check()
        return _head(service, exchange, request)

    await answer(service, exchange, Api.GENERATE, read=read)


async def either(service: Service, exchange: Exchange) -> None:
    """Continue a text; `stream` says how the answer is sent."""
    await answer(
        service, exchange, Api.GENERATE, read=lambda body: _head(service, exchange, decode_generate(body)), as_list=True
    )


async def info(service: Service, exchange: Exchange) -> None:
    """What is served, if that is one model."""
    name = only_model(service, None, exchange.caller)
    served = [*service.options.models, *service.options.found().values()]
    most = next((each.engine.max_waiting_requests for each in served if each.name == name), None)
    model = service.upstreams[name].model()
    await exchange.reply.whole(encode_info(model.id, __version__, model.max_model_len, most))


def _head(service: Service, exchange: Exchange, request: GenerateRequest) -> Head:
    given = request.parameters
    completion = request.completion("")
    return Head(
        model=only_model(service, given.adapter_id or request.model, exchange.caller),
        stream=request.stream,
        max_tokens=completion.max_tokens,
        temperature=completion.temperature,
        seed=given.seed,
    )
