import pytest

from servery.wire import sse


def test_events_end_with_a_blank_line_and_comments_do_not() -> None:
    assert (sse.event(b"{}"), sse.DONE, sse.KEEP_ALIVE) == (b"data: {}\n\n", b"data: [DONE]\n\n", b": ka\n")


def test_events_are_cut_out_of_any_pieces() -> None:
    data = b": ka\ndata: {1}\n\nevent: x\r\ndata: {2}\r\n\r\n:\n\n\n\ndata:{3}\n: ka\ndata: {4}\n\ndata: {5"
    whole = sse.EventCutter()
    events = whole.feed(data)

    assert events == [b"data: {1}", b"event: x\ndata: {2}", b"data:{3}\ndata: {4}"]
    assert [sse.data_of(lines) for lines in events] == [b"{1}", b"{2}", b"{3}\n{4}"]
    assert whole.has_rest
    for size in (1, 2, 3, 7):
        cutter = sse.EventCutter()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [lines for piece in pieces for lines in cutter.feed(piece)] == events


def test_comments_are_no_rest() -> None:
    cutter = sse.EventCutter()

    assert (cutter.feed(b"data: 1\n\n: ka\n: ka\n"), cutter.has_rest) == ([b"data: 1"], False)


def test_an_event_that_does_not_end_is_refused() -> None:
    cutter = sse.EventCutter(limit_bytes=10)

    with pytest.raises(sse.EventTooLong, match="an event has more than 10 bytes"):
        cutter.feed(b"data: 1\n\ndata: 12345678")
