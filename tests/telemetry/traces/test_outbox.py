"""Traces wait for a collector in a bounded place, and nobody waits for them."""

import threading
from collections.abc import Sequence

from servery.telemetry.traces.outbox import Outbox, SpanFigures
from servery.telemetry.traces.trace import INTERNAL, Span, Trace


class Scripted:
    """Takes what the script says; waits for `may_go` before each answer, unless it is shut down."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.may_go, self.is_asked = threading.Event(), threading.Event()
        self.sent: list[int] = []
        self.is_shut = False

    def export(self, traces: Sequence[Trace]) -> bool:
        self.is_asked.set()
        self.may_go.wait(60)
        self.sent.append(sum(len(trace.spans) for trace in traces))
        return self.answers.pop(0) if self.answers else True

    def shutdown(self) -> None:
        self.is_shut = True
        self.may_go.set()


def trace(spans: int) -> Trace:
    span = Span("x", INTERNAL, 1, None, 0.0, 1.0, {})
    return Trace(1, 1, None, is_sampled=True, spans=[span] * spans)


def test_what_has_no_room_is_dropped_and_counted_and_the_rest_is_sent() -> None:
    exporter = Scripted()
    outbox = Outbox(lambda: exporter, max_spans=10, linger_s=0)
    outbox.start()
    outbox.put(trace(6))
    assert exporter.is_asked.wait(60)
    outbox.put(trace(4))
    outbox.put(trace(1))
    assert outbox.figures == SpanFigures(dropped=1, waiting=10)
    exporter.may_go.set()
    outbox.close(10)
    assert outbox.figures == SpanFigures(exported=10, dropped=1)
    assert (exporter.sent, exporter.is_shut) == ([6, 4], True)
    outbox.put(trace(2))
    assert outbox.figures.dropped == 3


def test_what_the_collector_does_not_take_is_counted_and_makes_room() -> None:
    exporter = Scripted(False, True)
    exporter.may_go.set()
    outbox = Outbox(lambda: exporter, max_spans=4, linger_s=0)
    outbox.start()
    outbox.put(trace(4))
    while outbox.figures.waiting:
        exporter.may_go.wait(0.001)
    outbox.put(trace(3))
    outbox.close(10)
    assert outbox.figures == SpanFigures(exported=3, failed=4)


def test_the_end_waits_no_longer_than_it_may_for_a_collector_that_hangs() -> None:
    exporter = Scripted()
    outbox = Outbox(lambda: exporter, max_spans=10, linger_s=0)
    outbox.start()
    outbox.put(trace(1))
    assert exporter.is_asked.wait(60)
    outbox.close(0.01)
    assert exporter.is_shut


def test_spans_go_in_batches_of_a_bounded_size() -> None:
    exporter = Scripted()
    outbox = Outbox(lambda: exporter, max_spans=5000, linger_s=0)
    for _ in range(30):
        outbox.put(trace(100))
    outbox.start()
    exporter.may_go.set()
    outbox.close(10)
    assert exporter.sent == [500] * 6
