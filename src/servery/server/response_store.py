"""Responses that can be gone on with and read again: in memory, bounded, each its owner's alone."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from servery.wire.errors import ApiError, shown
from servery.wire.responses_items import Item


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was sent, the items it was asked with, and the whole conversation up to and with its output."""

    body: bytes
    input_items: Sequence[Item]
    conversation: Sequence[Item]
    owner: bytes
    size_bytes: int


class ResponseStore:
    """The newest responses, up to `max_responses` and `max_bytes`; the least recently used go first.

    A conversation's items are shared by its responses, but counted for each: the bound holds either way.
    """

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._responses)

    def put(
        self,
        owner: bytes,
        response: dict[str, Any],
        history: Sequence[Item],
        asked: Sequence[Item],
        said: Sequence[Item],
    ) -> None:
        """Keep a response; one that is larger than all that may be kept is not."""
        body = msgspec.json.encode(response)
        conversation = [*history, *asked, *said]
        size_bytes = len(body) + len(msgspec.json.encode(conversation))
        if size_bytes > self._max_bytes:
            return  # it would push out everybody else's first, and then itself
        self._responses[response["id"]] = StoredResponse(body, asked, conversation, owner, size_bytes)
        self.size_bytes += size_bytes
        while len(self._responses) > self._max_responses or self.size_bytes > self._max_bytes:
            _, oldest = self._responses.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def has(self, owner: bytes, response_id: str) -> bool:
        """Whether the response is kept, and that owner's."""
        stored = self._responses.get(response_id)
        return stored is not None and stored.owner == owner

    def get(self, owner: bytes, response_id: str, param: str | None = None) -> StoredResponse:
        """The response of that owner; raises `ApiError` (404), the same for another's as for one that never was."""
        stored = self._responses.get(response_id)
        if stored is None or stored.owner != owner:
            message = (
                f"There is no response '{shown(response_id)}': it was never stored, was deleted, or made room for newer "
                f"ones (this server keeps {self._max_responses}, in memory)."
            )
            raise ApiError(404, message, param=param, code="response_not_found")
        self._responses.move_to_end(response_id)
        return stored

    def delete(self, owner: bytes, response_id: str) -> None:
        """Forget a response; raises `ApiError` (404) as `get` does."""
        stored = self.get(owner, response_id)
        del self._responses[response_id]
        self.size_bytes -= stored.size_bytes
