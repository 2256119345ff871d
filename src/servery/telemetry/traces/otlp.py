"""Traces as OTLP over HTTP, by OpenTelemetry's SDK. Imported only where traces are sent."""

import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from servery import __version__
from servery.telemetry.traces.conventions import SCHEMA_URL
from servery.telemetry.traces.settings import TraceSettings
from servery.telemetry.traces.trace import Span, Trace

_NS = 1_000_000_000


class OtlpExporter:
    """Sends to one collector; `instance` tells the processes of one server apart."""

    def __init__(self, settings: TraceSettings, instance: Mapping[str, str]) -> None:
        """What the settings leave open is as OpenTelemetry's environment variables say."""
        self._exporter = OTLPSpanExporter(
            endpoint=settings.endpoint,
            headers={name: value.reveal() for name, value in settings.headers.items()} or None,
            timeout=settings.timeout_s,
        )
        named = {} if settings.service is None else {"service.name": settings.service}
        # Else by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource.create({"service.version": __version__, **instance, **named})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "servery"}))
        self._ids = _GivenIds()
        self._ended = _Ended()
        # What is sampled was decided when the requests came.
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer("servery", __version__, schema_url=SCHEMA_URL)

    def export(self, traces: Sequence[Trace]) -> bool:
        """Whether the collector took them; it is asked again, as its answers say, within the timeout."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        for trace in traces:
            for span in trace.spans:
                self._write(trace, span, offset_ns)
        return self._exporter.export(self._ended.taken()) is SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Try nothing again."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _write(self, trace: Trace, span: Span, offset_ns: int) -> None:
        self._ids.trace_id, self._ids.span_id = trace.trace_id, span.span_id
        written = self._tracer.start_span(
            span.name,
            context=api.set_span_in_context(NonRecordingSpan(_context(trace, span.parent_id))),
            kind=SpanKind[span.kind],
            attributes=span.attributes,
            start_time=int(span.start_s * _NS) + offset_ns,
        )
        if span.error is not None:
            written.set_status(Status(StatusCode.ERROR))
        written.end(int(max(span.end_s, span.start_s) * _NS) + offset_ns)


def _context(trace: Trace, span_id: int | None) -> SpanContext:
    """A parent's; none of a span without."""
    parent = trace.parent
    is_remote = parent is not None and span_id == parent.span_id
    state = TraceState.from_header([parent.state]) if parent is not None and parent.state else None
    return SpanContext(trace.trace_id, span_id or 0, is_remote, TraceFlags(TraceFlags.SAMPLED), state)


class _GivenIds(IdGenerator):
    """Ids that were given out before: others were told of them."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Ended(SpanProcessor):
    """Collects spans as they end."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans
