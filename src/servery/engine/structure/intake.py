"""Constrained requests between their arrival and the queue: they wait here, and here only, for their grammar."""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

import llguidance

from servery.engine.constraint import Constraint
from servery.engine.errors import EngineError, InvalidRequest, Overloaded
from servery.engine.request import BACKGROUND, FinishReason, NewRequest, Output
from servery.engine.structure.compiler import Compiler

RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class Arrival:
    """A request that waits for its grammar; `aborted` are completions that nobody wants any more."""

    request: NewRequest
    seed: int
    constraint: Constraint
    future: "Future[llguidance.LLMatcher]"
    aborted: set[int] = field(default_factory=set)


class Intake:
    """Holds at most `most` requests. The engine's loop calls it; grammars are compiled elsewhere meanwhile."""

    def __init__(self, compiler: Compiler, most: int) -> None:
        self._compiler = compiler
        self._most = most
        self._arrivals: OrderedDict[str, Arrival] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._arrivals

    @property
    def is_awaited(self) -> bool:
        """Whether anybody here is not in the background."""
        return any(arrival.request.priority < BACKGROUND for arrival in self._arrivals.values())

    def take(self, request: NewRequest, seed: int, constraint: Constraint) -> None:
        """Have the request's grammar compiled; raises `InvalidRequest` for an id in use, `Overloaded` when full."""
        if request.request_id in self._arrivals:
            raise InvalidRequest(f"request id {request.request_id!r} is in use by a request under way.", "request_id")
        if len(self._arrivals) >= self._most:
            raise Overloaded(f"{self._most} requests wait for their grammars; try again in a moment.", RETRY_AFTER_S)
        future = self._same(constraint) or self._compiler.start(constraint)
        self._arrivals[request.request_id] = Arrival(request, seed, constraint, future)

    def adapters_in_use(self) -> set[int]:
        """The ids of the LoRA adapters of those that wait; 0 among them when one has none."""
        return {arrival.request.adapter for arrival in self._arrivals.values()}

    def abort(self, request_id: str, index: int | None) -> None:
        """Forget a request, or one of its completions; unknown ids are ignored."""
        arrival = self._arrivals.get(request_id)
        if arrival is None:
            return
        arrival.aborted |= {index} if index is not None else set(range(arrival.request.params.n))
        if len(arrival.aborted) == arrival.request.params.n:
            del self._arrivals[request_id]

    def ready(self, wait_s: float) -> Iterator[tuple[Arrival, "llguidance.LLMatcher | EngineError"]]:
        """Those whose grammar is compiled or refused, in order of arrival; waits up to `wait_s` for the first."""
        if not self._arrivals:
            return
        self._compiler.check_time()
        wait([arrival.future for arrival in self._arrivals.values()], wait_s, FIRST_COMPLETED)
        for arrival in [arrival for arrival in self._arrivals.values() if arrival.future.done()]:
            del self._arrivals[arrival.request.request_id]
            yield arrival, self._outcome(arrival)

    def _outcome(self, arrival: Arrival) -> "llguidance.LLMatcher | EngineError":
        try:
            return self._compiler.finish(arrival.constraint, arrival.future)
        except EngineError as error:
            return error

    def _same(self, constraint: Constraint) -> "Future[llguidance.LLMatcher] | None":
        """The compilation under way of the same constraint."""
        for arrival in self._arrivals.values():
            if arrival.constraint == constraint:
                return arrival.future
        return None


def refused(arrival: Arrival, error: EngineError) -> list[Output]:
    """The last outputs of a request that is not taken after all."""
    return [
        Output(
            request_id=arrival.request.request_id,
            index=index,
            finish_reason=FinishReason.ERROR,
            error=str(error),
            invalid_param=(error.param or "constraint") if isinstance(error, InvalidRequest) else None,
            retry_after_s=error.retry_after_s if isinstance(error, Overloaded) else None,
        )
        for index in range(arrival.request.params.n)
        if index not in arrival.aborted
    ]
