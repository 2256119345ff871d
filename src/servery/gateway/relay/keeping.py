"""An answer on its way to its client, kept for when nobody answers; and one that was kept, told."""

from collections.abc import Callable

from servery.gateway.dispatch.earlier import Earlier, EarlierAnswers
from servery.gateway.exchange import Exchange, in_header
from servery.gateway.relay.retold import retold

STALE = "stale"


class Keeping:
    """Collects what one client is sent, until it is more than is kept."""

    def __init__(self, exchange: Exchange, answers: EarlierAnswers, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._answers = answers
        self._clock = clock
        self._pieces: list[bytes] = []
        self._bytes = 0

    def add(self, data: bytes) -> None:
        """The client is sent this, too."""
        self._bytes += len(data)
        if self._bytes > self._answers.largest_bytes:
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def end(self) -> None:
        """That was all of it."""
        if self._bytes > self._answers.largest_bytes:
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


def keeping(exchange: Exchange, clock: Callable[[], float]) -> Keeping | None:
    """What collects the answer; None where the model keeps none to such a request, or only stands in for another."""
    answers = None if exchange.served is None else exchange.served.earlier
    if answers is None or exchange.model.name != exchange.first_model or not answers.wants(exchange.ask):
        return None
    return Keeping(exchange, answers, clock)


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
    # No deployment gave it, and no model that was asked instead.
    untrue = {"x-servery-deployment"} | ({"x-servery-model"} if exchange.model.name != served.name else set())
    named = [header for header in exchange.client.headers if header[0] not in untrue]
    if "x-servery-model" in untrue:
        named.append(("x-servery-model", in_header(served.name)))
    exchange.client.headers = [*named, ("x-servery-cache", STALE), ("age", str(int(now - found.at_s)))]
    if not exchange.ask.is_stream:
        await exchange.client.whole(data)
        return True
    exchange.is_begun = True
    await exchange.client.stream(data)
    await exchange.client.end_stream()
    return True
