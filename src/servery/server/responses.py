"""`/v1/responses`: ask, go on, read again, forget."""

from collections.abc import Sequence
from typing import Any

import msgspec

from servery.server.answers import answer
from servery.server.response_store import ResponseStore
from servery.server.service import Exchange, Service
from servery.server.storage import read_page
from servery.upstream.ask import Api, Head
from servery.wire.errors import invalid
from servery.wire.responses import ResponsesRequest, decode_responses
from servery.wire.responses_answer import encode_input_tokens
from servery.wire.responses_items import Item, encode_items, identified

_MOST_ITEMS = 100  # of a page, as OpenAI's API has it


class _Kept:
    """The conversation of one client's request, in the store of responses."""

    def __init__(self, store: ResponseStore, owner: bytes, previous_id: str | None) -> None:
        self._store = store
        self._owner = owner
        self._previous_id = previous_id
        self._history: list[Item] | None = None  # once it was read it stays, whatever the store forgets meanwhile

    @property
    def is_known(self) -> bool:
        """Whether it goes on with a response that is kept here."""
        return self._previous_id is not None and self._store.has(self._owner, self._previous_id)

    def history(self) -> Sequence[Item]:
        """All that was said before; raises `ApiError` (404) if the response to go on with is not kept here."""
        if self._history is None:
            self._history = [] if self._previous_id is None else self._read(self._previous_id)
        return self._history

    def keep(self, request: ResponsesRequest, response: dict[str, Any], said: list[Item]) -> None:
        """Take the finished response."""
        self._store.put(self._owner, response, self.history(), identified(request.items), said)

    def _read(self, previous_id: str) -> list[Item]:
        return list(self._store.get(self._owner, previous_id, "previous_response_id").conversation)


async def create(service: Service, exchange: Exchange) -> None:
    """Answer, and keep the answer unless the client wants it forgotten."""

    def conversation(head: Head) -> _Kept:
        return _Kept(service.responses, exchange.owner, head.previous_response_id)

    await answer(service, exchange, Api.RESPONSES, conversation)


async def count(service: Service, exchange: Exchange) -> None:
    """How many tokens a request has as the model sees it."""
    asked = decode_responses(await exchange.body(service.options))
    upstream, request = service.upstream_for(exchange.caller, asked.model), service.addressed(asked)
    history = _Kept(service.responses, exchange.owner, request.previous_response_id).history()
    tokens = await upstream.count(request.chat(list(history)))
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
