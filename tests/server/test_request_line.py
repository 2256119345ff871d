"""What the log says of a request, for people and for programs."""

from servery.gateway.settle.record import Record
from servery.server.request_line import RequestLine
from servery.telemetry.metrics import Metrics
from servery.upstream.upstream import Chunk


def test_a_request_is_told_the_same_in_text_and_in_fields() -> None:
    record = Record(Metrics(), "m", 10.0, lambda: 10.5)
    record.add(Chunk(tokens=1, prompt_tokens=5, cached_tokens=2), 10.0)
    record.add(Chunk(tokens=1, finish_reason="stop"), 10.5)
    line = RequestLine(
        method="POST", route="/v1/x", status=200, request_id="r", took_ms=12.3456, record=record, trace_id="ab", error="e",
        is_client_gone=True,
    )  # fmt: skip
    told = "m: 5 prompt tokens (2 cached), 2 generated, first after 0 ms, stop"
    assert str(line) == f"POST /v1/x 200 r {told}, 12 ms, error e, the client had gone, trace ab"
    assert line.fields() == {
        "request_id": "r", "trace_id": "ab", "method": "POST", "route": "/v1/x", "status": 200, "took_ms": 12.346,
        "model": "m", "prompt_tokens": 5, "cached_tokens": 2, "generated_tokens": 2, "ttft_ms": 0.0, "tpot_ms": 500.0,
        "finish_reasons": ["stop"], "error": "e", "client_gone": True,
    }  # fmt: skip


def test_what_is_not_known_is_not_told() -> None:
    line = RequestLine(method="GET", route="/x", status=404, request_id="r", took_ms=1.0)
    assert str(line) == "GET /x 404 r 1 ms"
    assert {name for name, value in line.fields().items() if value is not None} == {
        "request_id", "method", "route", "status", "took_ms",
    }  # fmt: skip
