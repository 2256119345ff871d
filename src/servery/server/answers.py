"""`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/rerank`, `/v1/messages`: what a model answers."""

import time
from collections.abc import Callable

from servery.server.answer_record import AnswerRecord
from servery.server.relay import relay_stream, relay_whole, watched
from servery.server.request import Request
from servery.server.service import Exchange, Service
from servery.upstream.ask import PASSED_HEADERS, Api, Ask, Conversation, Head, new_answer_id, read_head
from servery.upstream.upstream import Call


async def chat(service: Service, exchange: Exchange) -> None:
    """Continue a chat."""
    await answer(service, exchange, Api.CHAT)


async def completion(service: Service, exchange: Exchange) -> None:
    """Continue a text."""
    await answer(service, exchange, Api.COMPLETIONS)


async def embedding(service: Service, exchange: Exchange) -> None:
    """Turn texts into vectors."""
    await answer(service, exchange, Api.EMBEDDINGS)


async def ranking(service: Service, exchange: Exchange) -> None:
    """Rank documents by a query."""
    await answer(service, exchange, Api.RERANK)


async def message(service: Service, exchange: Exchange) -> None:
    """Continue a conversation, in Anthropic's words."""
    await answer(service, exchange, Api.MESSAGES)


async def answer(
    service: Service, exchange: Exchange, api: Api, conversation: Callable[[Head], Conversation] | None = None
) -> None:
    """Have a request answered by its model, in the form of `api`, and sent as it comes or whole."""
    body = await exchange.body(service.options)
    head = read_head(body)
    model = service.unaliased(head.model)
    upstream = service.upstream(model)
    ask = Ask(
        api=api,
        body=body,
        head=head,
        model=model,
        base=upstream.name,
        answer_id=new_answer_id(api),
        created=int(time.time()),
        pass_headers=_passed(exchange.request),
        owner=exchange.owner,
        conversation=None if conversation is None else conversation(head),
    )
    arrived_s = exchange.request.arrived_s
    call = Call(id=ask.answer_id, deadline=arrived_s + service.options.request_timeout_s)
    exchange.record = record = AnswerRecord(service.metrics, upstream.name, arrived_s, service.clock, shown=model)
    async with watched(exchange):
        chunks = upstream.answer(ask, call)
        if ask.is_stream:
            await relay_stream(chunks, exchange.reply, record, service.options.keep_alive_s)
        else:
            await relay_whole(chunks, exchange.reply, record)


def _passed(request: Request) -> list[tuple[str, str]]:
    headers = request.headers
    return [(name, headers[key].decode("latin-1")) for name in PASSED_HEADERS if (key := name.encode()) in headers]
