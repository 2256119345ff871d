"""Chunks without a parser: what is read so is what a parser reads, and everything else is left to it."""

from hypothesis import given
from hypothesis import strategies as st

from servery.http.answer_reader import AnswerLimits, AnswerReader, LastAnswer
from servery.http.errors import HttpError
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
        assert read(each, takes_whole=True, last=known()) == read(each, takes_whole=False)


@given(
    st.lists(DATA.map(chunk), max_size=4),
    st.integers(0, 60),
    st.sampled_from([b"", b"0\r\n\r\n", b"0\r\nt: x\r\n\r\n", b"0\r\n\r\nx"]),
)
def test_an_answer_with_the_head_of_the_one_before_is_read_like_the_first(
    chunks: list[bytes], cut: int, end: bytes
) -> None:
    data = HEAD + b"".join(chunks) + end
    for pieces in ([data[:cut], data[cut:]], [HEAD, *chunks, end], [HEAD + b"".join(chunks), end]):
        assert read(pieces, takes_whole=True, last=known()) == read(pieces, takes_whole=False)


def test_only_the_same_head_is_known_and_only_if_the_connection_was_kept() -> None:
    for head in (HEAD.replace(b"chunked", b"chunked\r\nConnection: close"), HEAD.replace(b"\r\n", b"\n")):
        assert known(head).begun(head) is None
    assert known(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD).begun(HEAD) is None
    assert known().begun(HEAD.replace(b"200", b"500") + chunk(b"a")) is None
    assert known().begun(HEAD + chunk(b"a")) is not None


def known(head: bytes = HEAD) -> LastAnswer:
    """What is known after one answer with this head."""
    last = LastAnswer()
    read([head, chunk(b"before"), b"0\r\n\r\n"], takes_whole=False, last=last)
    return last


def read(pieces: list[bytes], *, takes_whole: bool, last: LastAnswer | None = None) -> tuple[object, ...]:
    """The head, the body, whether it is complete and the connection as it should be, and what broke it."""
    reader, body, broken = AnswerReader(AnswerLimits(), last=last), b"", ""
    try:
        for piece in filter(None, pieces):
            found = whole_chunks(piece) if takes_whole and reader.is_between_chunks else None
            if found is None:
                reader.feed(piece)
                found = reader.take()
            body += found
        reader.feed_end()
    except HttpError as error:
        broken = type(error).__name__
    head = None if reader.head is None else (reader.head.status, reader.head.version, reader.head.headers.raw)
    return head, body, reader.is_complete, reader.is_reusable, reader.has_surplus, broken
