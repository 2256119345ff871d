"""What Prometheus is told of traces: how many spans reached the collector, and how many did not."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from servery.telemetry.traces.outbox import SpanFigures


class TraceCollector:
    """Reads `read` whenever the metrics are read; None where traces are off."""

    def __init__(self) -> None:
        self.read: Callable[[], SpanFigures | None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        """As they are; nothing without traces."""
        spans = CounterMetricFamily("servery_trace_spans", "Spans, by what became of them.", labels=["result"])
        waiting = GaugeMetricFamily("servery_trace_spans_waiting", "Spans that are not sent yet.")
        figures = self.read()
        if figures is not None:
            spans.add_metric(["exported"], figures.exported)
            spans.add_metric(["dropped"], figures.dropped)
            spans.add_metric(["failed"], figures.failed)
            waiting.add_metric([], figures.waiting)
        yield from (spans, waiting)
