"""Events come out whole however the bytes were cut, each with the time of the piece that completed it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.bench.connection import Piece
from servery.bench.errors import Malformed
from servery.bench.sse import EVENT_LIMIT_BYTES, Event, EventReader

STREAM = b": hello\n\ndata: one\n\r\ndata:two\r\rid: 7\nevent: x\ndata: a\ndata:  b\n\n\n: ka\ndata: \xc3\xa4\n\ndata: unfinished"
EVENTS = [b"one", b"two", b"a\n b", "ä".encode()]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_bytes_were_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    pieces = [Piece(float(end), STREAM[begin:end]) for begin, end in pairwise(ends)]
    reader = EventReader()
    assert [event.data for piece in pieces for event in reader.feed(piece)] == EVENTS


def test_an_event_has_the_time_of_the_piece_that_completed_it() -> None:
    reader = EventReader()
    assert reader.feed(Piece(1.0, b"data: a\n\ndata: b\n")) == [Event(1.0, b"a")]
    assert reader.feed(Piece(2.0, b"\n")) == [Event(2.0, b"b")]


@pytest.mark.parametrize(
    "data", [b"data: " + b"x" * EVENT_LIMIT_BYTES, b"data:\n" * 10 + b"data:y" + b"y" * EVENT_LIMIT_BYTES + b"\n"]
)
def test_an_endless_event_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="longer than"):
        EventReader().feed(Piece(0.0, data))
