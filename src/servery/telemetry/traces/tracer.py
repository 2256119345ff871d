"""What a server holds of tracing: it begins a request's trace, and sends what was written when the request is over."""

from collections.abc import Mapping

from servery.telemetry.traces.context import parent_of
from servery.telemetry.traces.outbox import Exporter, Outbox, SpanFigures
from servery.telemetry.traces.settings import TraceSettings
from servery.telemetry.traces.trace import SERVER, Span, Trace, begun

_TRACEPARENT, _TRACESTATE = b"traceparent", b"tracestate"
CLOSE_S = 3.0  # what the collector is given at the end


class Tracer:
    """One process's; `instance` are attributes that tell it from others."""

    def __init__(self, settings: TraceSettings, instance: Mapping[str, str]) -> None:
        def exporter() -> Exporter:
            from servery.telemetry.traces.otlp import OtlpExporter  # loads OpenTelemetry, beside the loop

            return OtlpExporter(settings, instance)

        self._settings = settings
        self._outbox = Outbox(exporter, max_spans=settings.max_spans, linger_s=settings.linger_s)

    @property
    def figures(self) -> SpanFigures:
        """What became of spans."""
        return self._outbox.figures

    def start(self) -> None:
        """Begin to send, in this process."""
        self._outbox.start()

    def close(self) -> None:
        """Send what waits; a collector that does not answer is not waited for long."""
        self._outbox.close(CLOSE_S)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """A request's trace, which its headers may say it is part of."""
        parent = parent_of(_text(headers.get(_TRACEPARENT)), _text(headers.get(_TRACESTATE)))
        trace_id, root_id = begun(parent)
        is_sampled = self._settings.sampling.takes(trace_id, parent)
        return Trace(trace_id, root_id, parent, is_sampled, with_content=self._settings.content and is_sampled)

    def end(self, trace: Trace, name: str, start_s: float, end_s: float, kind: str = SERVER) -> None:
        """The request is over; all its other spans are. `kind` is that of its own span."""
        if not trace.is_sampled:
            return
        parent_id = None if trace.parent is None else trace.parent.span_id
        trace.add(Span(name, kind, trace.root_id, parent_id, start_s, end_s, trace.attributes, trace.error))
        self._outbox.put(trace)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
