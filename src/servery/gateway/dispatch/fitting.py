"""A bound that the limits gave an answer keeps no request out of a context that it fits into without.

Some servers refuse a prompt whose answer, at its longest, would go beyond the context. Such a refusal proves that less than
the bound is left there: asked again without it, the answer ends with the context, and so within what was reserved.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from servery.gateway.dispatch.deployment import Lease
from servery.gateway.exchange import Exchange
from servery.upstream.failure import is_context_window
from servery.wire.errors import ApiError

T = TypeVar("T")


async def fitting(exchange: Exchange, attempt: Callable[[Lease | None], Awaitable[T]], lease: Lease | None = None) -> T:
    """What an attempt at one deployment gives, made again without the limits' bound if it was refused for its length.

    `lease` is the first one's place, where there is one already.
    """
    try:
        return await attempt(lease)
    except ApiError as error:
        bounded, free = exchange.ask, exchange.unbounded
        if free is None or not is_context_window(error):
            raise
    exchange.ask = msgspec.structs.replace(free, model=bounded.model, base=bounded.base)
    try:
        return await attempt(None)
    finally:
        exchange.ask = bounded  # others may have longer contexts
