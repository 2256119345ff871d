"""Chunks without a parser: what is read so is what a parser reads, and everything else is left to it."""

from hypothesis import given
from hypothesis import strategies as st

from servery.http.answer_reader import AnswerLimits, AnswerReader
from servery.http.whole_chunks import whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DATA = st.binary(min_size=1, max_size=300) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"x" * 5000])
LENGTHS = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b"+%x", b" %x", b"%x "])


def chunk(data: bytes, length: bytes = b"%x") -> bytes:
    return length % len(data) + b"\r\n" + data + b"\r\n"


def test_one_or_more_whole_chunks_are_their_data() -> None:
    assert whole_chunks(b"5\r\nhello\r\n") == b"hello"
    assert whole_chunks(chunk(b"a" * 16) + chunk(b"b" * 300, b"%X") + chunk(b"c")) == b"a" * 16 + b"b" * 300 + b"c"


def test_everything_else_is_left_to_the_parser() -> None:
    whole = chunk(b"hello")
    parts = [whole[:at] for at in range(len(whole))]
    odd = [
        b"0\r\n\r\n",
        whole + b"0\r\n\r\n",
        b"05\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5;a\r\nhello\r\n",
        b"+5\r\nhello\r\n",
    ]
    odd += [
        b"1_0\r\n" + b"x" * 16 + b"\r\n",
        b"-1\r\n\r\n",
        b"5\r\nhello\n\n",
        b"5\nhello\r\n",
        b"g\r\nx\r\n",
        whole + b"\r\n",
    ]
    assert {each: whole_chunks(each) for each in (*parts, *odd)} == dict.fromkeys((*parts, *odd))


@given(st.lists(st.tuples(DATA, LENGTHS), max_size=6), st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_a_reader_that_takes_whole_chunks_reads_what_one_reads_that_parses_all(
    sent: list[tuple[bytes, bytes]], cuts: list[int], ends: bool
) -> None:
    pieces = [HEAD, *[chunk(data, length) for data, length in sent], *([b"0\r\nt: x\r\n\r\n"] if ends else [])]
    data = b"".join(pieces[1:])
    cut = [HEAD]
    for size in cuts:
        cut, data = [*cut, data[:size]], data[size:]
    for each in (pieces, [HEAD + b"".join(pieces[1:])], [*cut, data]):
        assert read(each, takes_whole=True) == read(each, takes_whole=False)


def read(pieces: list[bytes], *, takes_whole: bool) -> tuple[bytes, bool, str]:
    """The body, whether it is complete, and what broke it."""
    reader, body = AnswerReader(AnswerLimits()), b""
    try:
        for piece in filter(None, pieces):
            found = whole_chunks(piece) if takes_whole and reader.is_between_chunks else None
            if found is None:
                reader.feed(piece)
                found = reader.take()
            body += found
    except Exception as error:  # noqa: BLE001 - whatever it is, both are to raise it
        return body, reader.is_complete, str(error)
    return body, reader.is_complete, ""
