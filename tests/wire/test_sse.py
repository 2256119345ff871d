from servery.wire import sse


def test_events_end_with_a_blank_line_and_comments_do_not() -> None:
    assert (sse.event(b"{}"), sse.DONE, sse.KEEP_ALIVE) == (b"data: {}\n\n", b"data: [DONE]\n\n", b": ka\n")
