"""One request's trace while it is written: spans are made when they are over, from times that were taken anyway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from servery.telemetry.traces.context import Parent, new_span_id, new_trace_id, traceparent

Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
Header: TypeAlias = tuple[bytes, bytes]

INTERNAL, SERVER, CLIENT = "INTERNAL", "SERVER", "CLIENT"


class Span(NamedTuple):
    """Something that took from `start_s` to `end_s` of a monotonic clock; `error` is what it ended with, if not well.

    `parent_id` is None for the first one of a trace.
    """

    name: str
    kind: str
    span_id: int
    parent_id: int | None
    start_s: float
    end_s: float
    attributes: Attributes
    error: str | None = None


class Onward(NamedTuple):
    """The span of a request to somebody else, and what that is told of it; `trace_id` of a trace of ours, as it is shown."""

    span_id: int
    headers: tuple[Header, ...]
    trace_id: str | None = None


@dataclass(slots=True)
class Trace:
    """The part of a trace that is one request to this server; `root_id` is its span, below `parent`.

    Spans of a trace that is not sampled are thrown away, but whoever is asked is told that. `with_content`: prompts and
    answers are wanted in it.
    """

    trace_id: int
    root_id: int
    parent: Parent | None
    is_sampled: bool
    with_content: bool = False
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str | None = None
    spans: list[Span] = field(default_factory=list)

    def onward(self) -> Onward:
        """A new span of a request to somebody else."""
        span_id = new_span_id()
        headers = [(b"traceparent", traceparent(self.trace_id, span_id, is_sampled=self.is_sampled).encode("ascii"))]
        if self.parent is not None and self.parent.state:
            headers.append((b"tracestate", self.parent.state.encode("ascii")))
        return Onward(span_id, tuple(headers), self.shown_id)

    def add(self, span: Span) -> None:
        """A span is over."""
        self.spans.append(span)

    @property
    def shown_id(self) -> str:
        """The trace's id as others write it."""
        return f"{self.trace_id:032x}"


def begun(parent: Parent | None) -> tuple[int, int]:
    """The ids of a trace that goes on, or begins, and of the request's span in it."""
    return (new_trace_id() if parent is None else parent.trace_id), new_span_id()
