"""`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/rerank`, `/v1/messages`: what a model answers."""

import re
import time
from collections.abc import Awaitable, Callable
from functools import partial

from servery.server.interrupt import Reason
from servery.server.request import Request
from servery.server.service import Exchange, Service
from servery.telemetry.traces.trace import Onward
from servery.upstream.ask import PASSED_HEADERS, Api, Ask, Conversation, Head, new_answer_id, read_head
from servery.wire.errors import ApiError

# As ids of requests are: they end up in the same tables.
_TASK = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_PASSED = frozenset(name.encode() for name in PASSED_HEADERS)


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
        pass_headers=_passed(exchange.request),
        owner=exchange.owner,
        caller=exchange.caller,
        conversation=None if conversation is None else conversation(head),
        as_list=as_list,
    )
    arrived_s = exchange.request.arrived_s
    total_s = service.gateway.fleet.served(base).config.timeouts.total_s
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
        onward=_onward(exchange.request) if exchange.trace is None else None,
    )
    under_way.task = _task(exchange.request)
    exchange.record = under_way.record
    with exchange.request.watched(partial(_gone, exchange)):
        await service.gateway.handle(under_way)


def _gone(exchange: Exchange) -> None:
    if not exchange.reply.is_complete:  # after a complete answer, "disconnect" only means that it is over
        exchange.interrupt.fire(Reason.CLIENT)


def _task(request: Request) -> str | None:
    """What the client calls the piece of work that this is part of; raises `ApiError` (400) for what is no name of one."""
    given = request.headers.get(b"x-servery-task")
    if given is not None and not _TASK.fullmatch(given):
        message = "The header 'x-servery-task' must have 1 to 128 letters, digits or any of . _ : / + = @ -"
        raise ApiError(400, message, code="invalid_value", param="x-servery-task")
    return None if given is None else given.decode("ascii")


def _onward(request: Request) -> Onward | None:
    """What the client says of its own trace, where none of ours stands in between."""
    headers = request.headers
    if b"traceparent" not in headers:
        return None
    return Onward(0, tuple((name, headers[name]) for name in _TRACE_HEADERS if name in headers))


def _passed(request: Request) -> list[tuple[str, str]]:
    headers = request.headers
    if _PASSED.isdisjoint(headers):
        return []
    return [(name, headers[key].decode("latin-1")) for name in PASSED_HEADERS if (key := name.encode()) in headers]
