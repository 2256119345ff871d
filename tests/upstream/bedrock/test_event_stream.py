"""AWS's own reader of event streams, in botocore, is the oracle."""

import struct
import zlib
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from servery.upstream.bedrock.event_stream import BadFrame, Frame, FrameCutter
from tests.upstream.bedrock.frames import event, exception, frame

# Each type of a header's value, with bytes that it may have.
ALL_TYPES = b"".join(
    bytes([1]) + bytes([97 + type_, type_]) + value
    for type_, value in enumerate(
        [b"", b"", b"\x05", b"\0\x05", b"\0\0\0\x05", b"\0" * 8, b"\0\x02hi", b"\0\x02hi", b"\0" * 8, b"\0" * 16]
    )
)


def theirs(data: bytes) -> list[tuple[dict[str, Any], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["a", "b_c", "d"]), st.text(max_size=4)), st.binary(max_size=20)),
        max_size=4,
    ),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_frames_are_read_as_aws_reads_them_in_pieces_of_any_size(
    messages: list[tuple[dict[str, str], bytes]], sizes: list[int]
) -> None:
    data = b"".join(frame(payload, **headers) for headers, payload in messages)
    expected = [Frame(headers, payload) for headers, payload in theirs(data)]
    cutter, found = FrameCutter(), []
    for size in (*sizes, len(data)):
        found += cutter.feed(data[:size])
        data = data[size:]

    assert (found, cutter.has_rest) == (expected, False)


def test_a_frame_says_what_it_is() -> None:
    frames = FrameCutter().feed(event("messageStop") + exception("throttlingException", "slow") + frame(b"", message_type="error", error_code="500"))  # fmt: skip

    assert [(each.kind, each.name) for each in frames] == [
        ("event", "messageStop"), ("exception", "throttlingException"), ("error", "500"),
    ]  # fmt: skip


def test_headers_of_all_types_are_passed_over() -> None:
    whole = _with_headers(ALL_TYPES)

    assert FrameCutter().feed(whole) == [Frame({"h": "hi"}, b"x")]
    assert list(theirs(whole)[0][0]) == list("abcdefghij")


def test_half_a_frame_is_waited_for() -> None:
    cutter = FrameCutter()

    assert (cutter.feed(event("a")[:-1]), cutter.has_rest) == ([], True)


@pytest.mark.parametrize("at", [0, 4, 8, 13, 20, -5, -1])
def test_a_bit_that_fell_over_is_noticed(at: int) -> None:
    data = bytearray(event("messageStop"))
    data[at] ^= 1

    with pytest.raises(BadFrame):
        FrameCutter().feed(bytes(data))


@pytest.mark.parametrize(
    "headers",
    [
        b"\x01a\x0a",
        b"\x01a\x07\0\x09hi",
        b"\x09a",
        b"\x01a",
        b"\x01a\x07\0\x01\xff",
        b"\x01a\0\x01a\0\x01b\x07\0\0" * 2,
    ],
)
def test_headers_that_are_none_are_refused(headers: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameCutter().feed(_with_headers(headers))


def test_a_frame_without_end_is_refused_at_once() -> None:
    prelude = struct.pack("!II", 0x7FFFFFFF, 0)

    with pytest.raises(BadFrame, match="a frame of 2147483647 bytes"):
        FrameCutter().feed(prelude + struct.pack("!I", zlib.crc32(prelude)))


def _with_headers(headers: bytes) -> bytes:
    prelude = struct.pack("!II", 17 + len(headers), len(headers))
    data = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + b"x"
    return data + struct.pack("!I", zlib.crc32(data))
