"""What is left to do when an exchange is over: settle its limits, count it, write its row. Always, once, without waiting."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from servery.gateway.admit.limits.limiter import settle as settle_limits
from servery.gateway.exchange import Exchange, Outcome
from servery.gateway.settle.row import row_of
from servery.gateway.settle.spans import write_spans
from servery.gateway.settle.verdict import is_shed, verdict_of
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.metrics import Metrics
from servery.upstream.failure import UpstreamFailure
from servery.wire.errors import ApiError

_ABORTED_BY = {
    Outcome.CLIENT_GONE: "client", Outcome.TIMEOUT: "timeout", Outcome.SHUTDOWN: "shutdown", Outcome.FAILED: "error",
}  # fmt: skip
_CUT = {"client": Outcome.CLIENT_GONE, "timeout": Outcome.TIMEOUT, "shutdown": Outcome.SHUTDOWN}
_CLIENT_GONE_STATUS = 499


class Book(Protocol):
    """Where rows go."""

    def begin(self) -> None:
        """An exchange has begun, of which there will be a row."""

    def add(self, row: LedgerRow) -> None:
        """Take a row over; waits for nothing."""


class Settlement:
    """Settles exchanges. `clock` is the monotonic one of their timings, `wall` gives Unix time."""

    def __init__(
        self, metrics: Metrics, book: Book | None, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._book = book
        self._clock = clock
        self._wall = wall

    def begin(self, exchange: Exchange) -> None:
        """An exchange has begun."""
        tally = exchange.tally = self._metrics.gateway.exchanges.model(exchange.ask.base)
        tally.in_flight += 1
        if self._book is not None:
            self._book.begin()

    def settle(self, exchange: Exchange, error: BaseException | None) -> None:
        """Record what became of an exchange that ended with `error`, or well. A second time has no effect."""
        if exchange.outcome is not None:
            return
        name, status, served, now = None, 200, exchange.served, self._clock()
        if error is None:
            outcome = exchange.outcome = Outcome.COMPLETED
            exchange.record.settle(None, now)
        else:
            outcome = exchange.outcome = outcome_of(error, exchange.cut_by(), is_begun=exchange.is_begun)
            name, status = error_name(error, outcome), _status(error, outcome)
            if outcome is not Outcome.REFUSED:
                exchange.record.settle(_ABORTED_BY[outcome], now)
        e2e_s = now - exchange.arrived_s
        slo = None if served is None else served.config.slo
        verdict = verdict_of(slo, exchange.record, outcome, error, status, exchange.cache)
        row = row_of(exchange, outcome, name, status, verdict, at_s=self._wall() - e2e_s, e2e_s=e2e_s)
        if exchange.trace is not None:
            write_spans(exchange, row, exchange.trace)
        settle_limits(exchange, -(-row.cost_nanousd // 1000))
        self._count(exchange, row, verdict, is_shed=error is not None and is_shed(outcome, error, status))
        if self._book is not None:
            self._book.add(row)

    def _count(self, exchange: Exchange, row: LedgerRow, verdict: str | None, *, is_shed: bool) -> None:
        model = exchange.ask.base if exchange.served is None else exchange.served.name
        metrics, attempts = self._metrics.gateway, exchange.attempts
        metrics.exchanges.count(model, row, verdict)
        if exchange.tally is not None:
            exchange.tally.in_flight -= 1
        if is_shed:
            metrics.exchanges.model(model).shed += 1
        if len(attempts) > 1:
            metrics.exchanges.model(model).retries += len(attempts) - 1
        for attempt in attempts:
            deployment = attempt.deployment
            metrics.attempts.count(deployment.name, deployment.tier, attempt.result)
            if attempt.is_hedge:
                metrics.count_hedge(model, attempt.result)


def outcome_of(error: BaseException | None, cut_by: str | None, *, is_begun: bool) -> Outcome:
    """The one outcome that an exchange has; what its client had begun to read is no refusal any more."""
    if error is None:
        return Outcome.COMPLETED
    if cut_by is not None and isinstance(error, asyncio.CancelledError):
        return _CUT[cut_by]
    if isinstance(error, asyncio.CancelledError):
        return Outcome.SHUTDOWN  # whoever runs the server wants it to end
    is_fault = isinstance(error, ApiError) and error.status < 500
    is_overload = isinstance(error, UpstreamFailure) and error.error.status == 429
    return Outcome.REFUSED if (is_fault or is_overload) and not is_begun else Outcome.FAILED


def error_name(error: BaseException, outcome: Outcome) -> str:
    """What went wrong, in a word."""
    if isinstance(error, UpstreamFailure):
        return error.name
    if isinstance(error, ApiError):
        return error.code or error.kind
    return type(error).__name__ if outcome is Outcome.FAILED else outcome.word


def _status(error: BaseException, outcome: Outcome) -> int:
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, UpstreamFailure):
        return error.error.status
    return {Outcome.CLIENT_GONE: _CLIENT_GONE_STATUS, Outcome.TIMEOUT: 504, Outcome.SHUTDOWN: 503}.get(outcome, 500)
