"""`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/rerank`, `/v1/messages`: what a model answers."""

import time
from collections.abc import Awaitable, Callable
from functools import partial

from servery.server.interrupt import Reason
from servery.server.service import Exchange, Service
from servery.upstream.ask import Api, Ask, Conversation, Head, new_answer_id, read_head


def chat(service: Service, exchange: Exchange) -> Awaitable[None]:
    """Continue a chat."""
    return answer(service, exchange, Api.CHAT)


def completion(service: Service, exchange: Exchange) -> Awaitable[None]:
    """Continue a text."""
    return answer(service, exchange, Api.COMPLETIONS)


def embedding(service: Service, exchange: Exchange) -> Awaitable[None]:
    """Turn texts into vectors."""
    return answer(service, exchange, Api.EMBEDDINGS)


def ranking(service: Service, exchange: Exchange) -> Awaitable[None]:
    """Rank documents by a query."""
    return answer(service, exchange, Api.RERANK)


def message(service: Service, exchange: Exchange) -> Awaitable[None]:
    """Continue a conversation, in Anthropic's words."""
    return answer(service, exchange, Api.MESSAGES)


async def answer(
    service: Service,
    exchange: Exchange,
    api: Api,
    conversation: Callable[[Head], Conversation] | None = None,
    *,
    read: Callable[[bytes], Head] = read_head,
    as_list: bool = False,
) -> None:
    """Have a request answered by its model, in the form of `api`, and sent as it comes or whole.

    `read` finds the head in the body; `as_list` is `Ask.as_list`.
    """
    options = service.options  # those of now, to the end
    asked = exchange.request.head
    body = await exchange.body(options)
    head = read(body)
    model, base = service.located(head.model, exchange.caller)
    ask = Ask(
        api=api,
        body=body,
        head=head,
        model=model,
        base=base,
        answer_id=new_answer_id(api),
        created=int(time.time()),
        pass_headers=asked.passed,
        owner=exchange.caller.tenant,
        caller=exchange.caller,
        conversation=None if conversation is None else conversation(head),
        as_list=as_list,
    )
    arrived_s = exchange.request.arrived_s
    total_s = service.gateway.fleet.models[base].config.timeouts.total_s
    if total_s != options.request_timeout_s:
        exchange.limit(total_s, service.clock())
    under_way = service.gateway.exchange(
        ask,
        exchange.reply,
        request_id=exchange.request.id,
        arrived_s=arrived_s,
        deadline_s=arrived_s + total_s,
        keep_alive_s=options.keep_alive_s,
        cut_by=exchange.interrupt.by,
        trace=exchange.trace,
        onward=asked.onward if exchange.trace is None else None,
        task=asked.task,
    )
    exchange.record = under_way.record
    watching = exchange.request.watch(partial(_gone, exchange))
    try:
        await service.gateway.handle(under_way)
    finally:
        if watching is not None:
            watching.cancel()


def _gone(exchange: Exchange) -> None:
    if not exchange.reply.is_complete:  # after a complete answer, "disconnect" only means that it is over
        exchange.interrupt.fire(Reason.CLIENT)
