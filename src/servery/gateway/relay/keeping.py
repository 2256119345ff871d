"""An answer on its way to its client, kept for when nobody answers; and one that was kept, told."""

from collections.abc import Callable

from servery.gateway.dispatch.earlier import Earlier, EarlierAnswers
from servery.gateway.exchange import Exchange
from servery.gateway.relay.retold import retold

STALE = "stale"


class Keeping:
    """Collects what one client is sent; nothing where the model keeps no answers, or none to such a request."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._clock = clock
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._answers = _wanted(exchange)

    def add(self, data: bytes) -> None:
        """The client is sent this, too."""
        if self._answers is None:
            return
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > self._answers.largest_bytes:
            self._pieces, self._answers = [], None

    def end(self) -> None:
        """That was all of it."""
        if self._answers is None:
            return
        ask = self._exchange.ask
        answer = Earlier(
            data=b"".join(self._pieces),
            is_stream=ask.is_stream,
            includes_usage=ask.is_stream and ask.head.include_usage,
            usage=self._exchange.record.usage,
            at_s=self._clock(),
        )
        self._answers.keep(ask, answer)


def _wanted(exchange: Exchange) -> EarlierAnswers | None:
    """Where the answer is to be kept: not one of a model that stands in for another."""
    answers = exchange.model.earlier
    is_own = exchange.model.name == exchange.first_model
    return answers if answers is not None and is_own and answers.wants(exchange.ask) else None


async def tell_earlier(exchange: Exchange, now: float) -> bool:
    """Whether the client was told an answer of before, and that it is one; what fails is for somebody else to tell."""
    served = exchange.fleet.served(exchange.first_model)
    if served.earlier is None or not served.earlier.wants(exchange.ask):
        return False
    found = served.earlier.find(exchange.ask, now)
    data = None if found is None else retold(exchange.ask, found)
    if found is None or data is None:
        return False
    exchange.cache = STALE
    # No deployment gave it.
    named = [header for header in exchange.client.headers if header[0] != "x-servery-deployment"]
    exchange.client.headers = [*named, ("x-servery-cache", STALE), ("age", str(int(now - found.at_s)))]
    if not exchange.ask.is_stream:
        await exchange.client.whole(data)
        return True
    exchange.is_begun = True
    await exchange.client.stream(data)
    await exchange.client.end_stream()
    return True
