"""One request and its answer on their way through the gateway."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn, Protocol, cast
from urllib.parse import quote

import msgspec

from servery.telemetry.traces.trace import Onward, Trace
from servery.upstream.upstream import Call, Sink

if TYPE_CHECKING:
    from servery.gateway.admit.limits.meter import Lease
    from servery.gateway.dispatch.attempt import Attempt
    from servery.gateway.dispatch.served import Served
    from servery.gateway.fleet import Fleet
    from servery.gateway.settle.record import Record
    from servery.telemetry.exchange_tallies import ModelTally
    from servery.upstream.ask import Ask
    from servery.wire.message import AnswerForm


class Outcome(enum.Enum):
    """What became of an exchange; exactly one of these. Their words are in the ledger and the metrics."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    REFUSED = "refused"  # the client's own fault, or more than may be taken
    FAILED = "failed"

    def __init__(self, word: str) -> None:
        """`word` is the value, which to ask an enumeration's member for takes two functions of Python's."""
        self.word = word

    __hash__ = object.__hash__  # of the member itself: quicker than that of its name


class Client(Protocol):
    """Where the answer goes. What it has been sent cannot be taken back."""

    headers: list[tuple[str, str]]  # of the answer, besides those that belong to every one

    def stream(self, events: bytes) -> Awaitable[None]:
        """Send whole events; waits as long as the client reads slower than they come."""
        ...

    def stream_at_once(self, events: bytes) -> bool:
        """Send further events of a stream, unless something has to be waited for; whether they were sent."""
        ...

    async def end_stream(self) -> None:
        """Say that the stream is complete."""

    def whole(self, body: bytes) -> Awaitable[None]:
        """Send an answer that is not streamed."""
        ...

    def keep_alive(self) -> None:
        """Break the silence of a stream; waits for nothing."""


@lru_cache(1024)
def in_header(name: str) -> str:
    """A name as a header can carry it, with %XX for what it cannot."""
    return quote(name, safe=" !#$&'()*+,-./:;=?@[]^_{|}~")


class _Nobody:
    """In the place of a model that was not chosen."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError("nobody chose a model for the exchange")


_NOBODY = cast("Served", _Nobody())


class Exchange(msgspec.Struct, kw_only=True, eq=False):
    """One on its way. Times are seconds of one monotonic clock; `fleet` is the snapshot that it keeps to its end.

    `cut_by` tells whether it was ended from outside, and by whom: "client", "timeout", "shutdown". `served` is the model
    that answers, None before one was chosen; `model` is the same, and of no use before, `attempts` the deployments that were asked, in their order, but the one that answers last; `waited_s` is
    how long it was kept waiting for one, `lease` what limits it has reserved. `is_begun` is set when the first of a stream
    is sent, `outcome` once, at the end. `task` is what the client calls the piece of work that this is part of.
    `unbounded` is the request as it came, where the limits gave its answer a bound.
    `cache` is the cache that answered in the place of a deployment, `tally` where it is counted while it is under way.
    `trace` is what is told of it, None where nothing is: then `onward` is what its client said of its own trace.
    `admitted_s` is when it was let in, where that is told.
    """

    ask: Ask
    client: Client
    fleet: Fleet
    record: Record
    request_id: str
    arrived_s: float
    deadline_s: float
    keep_alive_s: float
    cut_by: Callable[[], str | None]
    served: Served | None = None
    model: Served = _NOBODY
    attempts: list[Attempt] = []
    lease: Lease | None = None
    is_begun: bool = False
    outcome: Outcome | None = None
    waited_s: float = 0.0
    task: str | None = None
    cache: str | None = None
    tally: ModelTally | None = None
    unbounded: Ask | None = None
    trace: Trace | None = None
    onward: Onward | None = None
    admitted_s: float | None = None
    _calls: int = 0
    _chosen: str | None = None

    def choose(self, served: Served) -> None:
        """Ask a model at those of its deployments that are of the tiers which the caller may have."""
        tiers = self.ask.caller.tiers
        self.served = self.model = served if tiers is None else served.within(tiers)

    def turn_to(self, served: Served) -> None:
        """Ask another model, which the answer names."""
        self._chosen = self.first_model
        self.choose(served)
        self.ask = msgspec.structs.replace(self.ask, model=served.name, base=served.name)

    @property
    def is_turned(self) -> bool:
        """Whether another model answers than the one that was chosen first."""
        return self._chosen is not None

    @property
    def first_model(self) -> str:
        """The served model that was chosen, also when another one answers."""
        return self._chosen or self.model.name

    @property
    def asked_model(self) -> str:
        """What the client asked for, also when another model answers."""
        return self.ask.head.model

    def answer_by(self, attempt: Attempt) -> None:
        """Of several attempts at a time, this one answers."""
        self.attempts.remove(attempt)
        self.attempts.append(attempt)

    def name_server(self) -> None:
        """Let the answer's head say who gave it, or was the last to be asked."""
        last = self.attempts[-1] if self.attempts else None
        # A model to fall back on may have been turned to, and none of its deployments asked.
        headers = self.client.headers
        headers += (("x-servery-model", in_header(self.ask.model if last is None else last.ask.model)),)
        if last is not None:
            headers += (
                ("x-servery-deployment", in_header(last.deployment.name)),
                ("x-servery-attempts", str(len(self.attempts))),
            )

    def call(self, form: AnswerForm | None = None, *, continued: str | None = None, spent_tokens: int = 0) -> Call:
        """The next attempt's."""
        number, timeouts = self._calls, self.model.config.timeouts
        self._calls += 1
        return Call(
            id=f"{self.ask.answer_id}-{number}",
            deadline=self.deadline_s,
            priority=self.ask.priority,
            connect_s=timeouts.connect_s,
            stall_s=None if self.ask.is_stream else timeouts.stall_s,
            form=form,
            continued=continued,
            spent_tokens=spent_tokens,
            onward=self.onward if self.trace is None else self.trace.onward(),
            sink=Sink() if self.ask.is_stream else None,
        )
