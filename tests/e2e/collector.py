"""A collector of traces in a thread: it decodes what comes by OTLP over HTTP, and can be told to hang."""

import contextlib
import gzip
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan


@dataclass(frozen=True)
class Seen:
    """A span as it came; ids in hex, empty for none. `resource` and `schema_url` are those it came under."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    schema_url: str


@dataclass
class Collector:
    """`raw` are the bodies of all requests, `headers` their headers; while `may_answer` is not set it answers nobody."""

    port: int = 0
    status: int = 200
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    hung: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Seen]:
        found: list[Seen] = []
        for body in list(self.raw):
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in each.scope_spans:
                    found += [_seen(span, _values(each.resource.attributes), scope.schema_url) for span in scope.spans]
        return found

    def trace(self, trace_id: str) -> list[Seen]:
        """The spans of one trace, by when they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_ns)


def tree(spans: Sequence[Seen], parent_id: str) -> list[Any]:
    """The names of the spans below one, each with those below it, by when they began."""
    below = sorted(
        (span for span in spans if span.parent_id == parent_id), key=lambda span: (span.start_ns, span.end_ns)
    )
    return [(span.name, tree(spans, span.span_id)) for span in below]


def _seen(span: WireSpan, resource: dict[str, Any], schema_url: str) -> Seen:
    return Seen(
        span.name, WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"), span.trace_id.hex(), span.span_id.hex(),
        span.parent_span_id.hex(), span.trace_state, span.start_time_unix_nano, span.end_time_unix_nano,
        span.status.code == 2, _values(span.attributes), resource, schema_url,
    )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


class _Handler(BaseHTTPRequestHandler):
    collector: Collector
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        collector = self.collector
        if not collector.may_answer.is_set():
            collector.hung.set()
            collector.may_answer.wait(60)
        collector.raw.append(body)
        collector.headers.append({name.lower(): value for name, value in self.headers.items()} | {":path": self.path})
        with contextlib.suppress(ConnectionError):
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def collecting(*, hangs: bool = False) -> Iterator[Collector]:
    """The collector while it runs."""
    collector = Collector()
    if not hangs:
        collector.may_answer.set()
    handler = type("Handler", (_Handler,), {"collector": collector})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        collector.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.may_answer.set()
            server.shutdown()
            thread.join(60)
