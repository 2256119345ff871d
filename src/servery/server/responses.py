"""`/v1/responses`: ask, go on, read again, forget."""

import secrets
import time
from typing import Any

import msgspec

from servery.server.answers import answer
from servery.server.service import Exchange, Service
from servery.server.storage import read_page
from servery.wire.errors import invalid
from servery.wire.responses import Item, decode_responses, encode_items, identified
from servery.wire.responses_answer import ResponsesForm, encode_input_tokens

_MOST_ITEMS = 100  # of a page, as OpenAI's API has it


async def create(service: Service, exchange: Exchange) -> None:
    """Answer, and keep the answer unless the client wants it forgotten."""
    request = service.addressed(decode_responses(await exchange.body(service.options)))
    history = _history(service, exchange, request.previous_response_id)
    chat = request.chat(history)
    answer_id = f"resp_{secrets.token_hex(24)}"

    def keep(response: dict[str, Any], said: list[Item]) -> None:
        service.responses.put(exchange.owner, response, history, identified(request.items), said)

    form = ResponsesForm(answer_id, int(time.time()), request, keep if request.is_stored else None)
    await answer(service, exchange, chat, answer_id, form)


async def count(service: Service, exchange: Exchange) -> None:
    """How many tokens a request has as the model sees it."""
    request = service.addressed(decode_responses(await exchange.body(service.options)))
    chat = request.chat(_history(service, exchange, request.previous_response_id))
    tokens = await service.upstream(request.model).count(chat)
    await exchange.reply.whole(encode_input_tokens(tokens))


async def retrieve(service: Service, exchange: Exchange) -> None:
    """A response that was kept, whole."""
    if b"stream=true" in exchange.request.query.split(b"&"):
        raise invalid("A response that is complete cannot be streamed again; leave 'stream' out.", "stream")
    await exchange.reply.whole(service.responses.get(exchange.owner, exchange.arguments["id"]).body)


async def delete(service: Service, exchange: Exchange) -> None:
    """Forget a response."""
    response_id = exchange.arguments["id"]
    service.responses.delete(exchange.owner, response_id)
    deleted = {"id": response_id, "object": "response", "deleted": True}
    await exchange.reply.whole(msgspec.json.encode(deleted))


async def cancel(service: Service, exchange: Exchange) -> None:
    """Nothing runs in the background, so nothing can be cancelled but by closing the connection."""
    service.responses.get(exchange.owner, exchange.arguments["id"])
    raise invalid("Only responses in the background can be cancelled; this one is complete.", code="not_cancellable")


async def input_items(service: Service, exchange: Exchange) -> None:
    """What a response was asked with, the last item first unless `order` is asc."""
    stored = service.responses.get(exchange.owner, exchange.arguments["id"])
    page = read_page(exchange.request.query, most=_MOST_ITEMS)
    await exchange.reply.whole(encode_items(*page.of(stored.input_items)))


def _history(service: Service, exchange: Exchange, previous_id: str | None) -> list[Item]:
    """The conversation so far."""
    if previous_id is None:
        return []
    return list(service.responses.get(exchange.owner, previous_id, "previous_response_id").conversation)
