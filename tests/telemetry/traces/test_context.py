"""What is read from and written into the headers of W3C Trace Context."""

import pytest
from opentelemetry.trace.propagation import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from servery.telemetry.traces.context import Parent, new_span_id, new_trace_id, parent_of, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f" 00-{TRACE}-{SPAN}-01 ", True),
    ],
)
def test_a_caller_s_span_is_understood_also_of_later_versions(header: str, is_sampled: bool) -> None:
    assert parent_of(header, "a=1,b=2") == Parent(int(TRACE, 16), int(SPAN, 16), is_sampled, "a=1,b=2")


BROKEN = [
    None,
    "",
    "00",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}0-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-zz",
    f"00-{TRACE}-{SPAN}-01\n",
]


@pytest.mark.parametrize("header", BROKEN[:-1])
def test_what_is_no_span_begins_a_new_trace(header: str | None) -> None:
    assert parent_of(header, "a=1") is None


@pytest.mark.parametrize(
    "header", [each for each in BROKEN if each] + [f"00-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-00"]
)
def test_opentelemetry_s_own_reader_agrees(header: str) -> None:
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    ours = parent_of(header)
    if header.endswith("\n"):  # no header has a line break; theirs keeps to the letter of the pattern
        return
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (ours.trace_id, ours.span_id, ours.is_sampled) == (
            theirs.trace_id,
            theirs.span_id,
            theirs.trace_flags.sampled,
        )


@pytest.mark.parametrize("state", ["x=" + "y" * 600, "a=ä", "a=\x00", None, ""])
def test_a_list_that_no_header_can_carry_on_is_dropped(state: str | None) -> None:
    found = parent_of(f"00-{TRACE}-{SPAN}-01", state)
    assert found is not None
    assert found.state == ""


def test_what_is_written_is_read_again() -> None:
    trace_id, span_id = new_trace_id(), new_span_id()
    for is_sampled in (True, False):
        header = traceparent(trace_id, span_id, is_sampled=is_sampled)
        assert parent_of(header) == Parent(trace_id, span_id, is_sampled)
    assert parent_of(traceparent(1, 1, is_sampled=True)) == Parent(1, 1, True)
