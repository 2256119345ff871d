"""One answer, read strictly: tables of what is refused, and fuzzing against h11."""

from dataclasses import dataclass

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servery.http.answer_reader import AnswerLimits, AnswerReader, LastAnswer
from servery.http.errors import HeadTooLarge, HttpError, Malformed, UnsupportedEncoding

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LIMITS = AnswerLimits(head_bytes=4096, fields=20, interim=3)


@dataclass(frozen=True)
class Read:
    """What became of an answer: its head, its body, and how it ended."""

    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    end: str  # "complete", "cut", or the class of the error
    is_surplus: bool = False


def read(pieces: list[bytes], *, is_bodyless: bool = False, limits: AnswerLimits = LIMITS) -> Read:
    reader = AnswerReader(limits, is_bodyless=is_bodyless)
    body = b""
    try:
        for piece in pieces:
            reader.feed(piece)
            body += reader.take()
        end = "complete" if reader.feed_end() else "cut"
    except HttpError as error:
        body += reader.take()
        end = type(error).__name__
    head = reader.head
    return Read(head.status if head else None, tuple(head.headers.raw) if head else (), body, end, reader.has_surplus)


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


REFUSED = {
    "two equal lengths": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "two different lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "a signed length": OK + b"Content-Length: +2\r\n\r\nok",
    "a hexadecimal length": OK + b"Content-Length: 0x2\r\n\r\nok",
    "no length": OK + b"Content-Length:\r\n\r\nok",
    "a length beyond all": OK + b"Content-Length: 99999999999999999999\r\n\r\nok",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in a line": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding that is almost chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks with 204": b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a body with 204": b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
    "a body with 100": b"HTTP/1.1 100 Go\r\nContent-Length: 2\r\n\r\nok" + OK + b"Content-Length: 0\r\n\r\n",
    "a folded line": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a folded first line": OK + b" X: a\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a name of nothing": OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "a name with a space": OK + b"a b: c\r\nContent-Length: 0\r\n\r\n",
    "a line without a colon": OK + b"abc\r\nContent-Length: 0\r\n\r\n",
    "a NUL in a value": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a control character in a value": OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a CR in a value": OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "lines that end with LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "one line that ends with LF": OK + b"X: a\nContent-Length: 2\r\n\r\nok",
    "no head": b"hello, this is HTTP/0.9",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a greeting": b"220 mail.example.com ESMTP\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02F",
    "a status of two digits": b"HTTP/1.1 99 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "a status above 599": b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Go\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "an upgrade without a word": b"HTTP/1.1 101 Go\r\n\r\n",
    "a chunk of 0x2 bytes": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "a chunk of -2 bytes": CHUNKED + b"-2\r\nok\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nok\r\n0\r\n\r\n",
    "a chunk size beyond all": CHUNKED + b"fffffffffffffffff\r\nok\r\n0\r\n\r\n",
    "a chunk size with a space": CHUNKED + b"2 \r\nok\r\n0\r\n\r\n",
    "a chunk size that ends with LF": CHUNKED + b"2\nok\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\nokay\r\n0\r\n\r\n",
    "an LF in a chunk's extension": CHUNKED + b"2;a\nb\r\nok\r\n0\r\n\r\n",
    "a length among the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    assert read([data]).end == "Malformed"
    assert read(bytewise(data)).end == "Malformed"


ACCEPTED = {
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "empty lines before": (b"\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", b"ok"),
    "bytes above ASCII in a value": (OK + b"X: \xc3\xa4\xff\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "spaces around a length": (OK + b"Content-Length:   2 \t\r\n\r\nok", b"ok"),
    "leading zeros": (OK + b"Content-Length: 002\r\n\r\nok", b"ok"),
    "chunked in capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "extensions and trailers": (CHUNKED + b'02;a="b;c";d\r\nok\r\n0;x\r\nA: b\r\nC: d\r\n\r\n', b"ok"),
    "a length of nothing with 204": (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", b""),
    "the length of what was not sent with 304": (b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", b""),
    "interim answers": (b"HTTP/1.1 102 Wait\r\n\r\n" * 3 + OK + b"Content-Length: 2\r\n\r\nok", b"ok"),
    "to the end of the connection": (OK + b"\r\nok", b"ok"),
    "an encoding that is none": (OK + b"Content-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "an encoding of nothing": (b"HTTP/1.1 304 No\r\nContent-Encoding: gzip\r\n\r\n", b""),
}


@pytest.mark.parametrize(("data", "body"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_odd_but_clear_is_accepted(data: bytes, body: bytes) -> None:
    assert (read([data]).end, read([data]).body) == ("complete", body)
    assert read(bytewise(data)) == read([data])


@pytest.mark.parametrize(
    "data",
    [
        OK + b"X: " + b"a" * 5000 + b"\r\n\r\n",
        OK + b"X" * 5000,
        OK + b"X: 1\r\n" * 21 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 5000,
        b"\r\n" * 3000,
        CHUNKED + b"2;" + b"x" * 5000 + b"\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nX: " + b"a" * 5000,
        CHUNKED + b"0\r\n" + b"X: 1\r\n" * 21 + b"\r\n",
    ],
    ids=["value", "name", "fields", "reason", "empty lines", "extension", "trailer", "trailers"],
)
def test_nothing_but_a_body_may_be_without_measure(data: bytes) -> None:
    assert read([data[i : i + 100] for i in range(0, len(data), 100)]).end == "HeadTooLarge"


def test_refusals_say_what_was_wrong() -> None:
    def refusal(data: bytes) -> str:
        with pytest.raises(Malformed) as caught:
            AnswerReader(LIMITS).feed(data)
        return str(caught.value)

    assert refusal(REFUSED["a length and chunks"]).startswith(
        "it is not HTTP/1.1 (Transfer-Encoding can't be present with Content-Length); the fault is in b'HTTP/1.1 200 OK"
    )
    assert refusal(REFUSED["a greeting"]).startswith("it does not begin like one of HTTP/1.1 but with b'220 mail")
    assert refusal(REFUSED["HTTP/2.0"]) == "its version is HTTP/2.0."
    assert refusal(REFUSED["a status above 599"]) == "its status is 600."
    assert refusal(b"HTTP/1.1 102 Wait\r\n\r\n" * 4) == "more than 3 interim (1xx) answers."
    assert refusal(REFUSED["a body with 204"]) == "status 204 has no body, but its Content-Length is not 0."
    assert refusal(REFUSED["chunked twice"]) == "Transfer-Encoding is there twice."
    assert refusal(REFUSED["another coding"]) == "Transfer-Encoding b'gzip, chunked' with HTTP/1.1 and status 200."
    with pytest.raises(HeadTooLarge, match="more than 4096 bytes or 20 fields without any of the body"):
        AnswerReader(LIMITS).feed(OK + b"X: " + b"a" * 5000)
    with pytest.raises(UnsupportedEncoding, match="encoded as b'gzip' although the request accepts only identity"):
        AnswerReader(LIMITS).feed(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 200 OK\r\n", OK + b"Content-Length: 0\r\n\r\n", b"\0"])
@pytest.mark.parametrize(
    ("data", "is_bodyless"),
    [
        (OK + b"Content-Length: 2\r\n\r\nok", False),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", False),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", False),
        (OK + b"Content-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\n\r\n", False),
    ],
)
def test_what_follows_an_answer_is_no_part_of_it(data: bytes, is_bodyless: bool, surplus: bytes) -> None:
    alone = read([data], is_bodyless=is_bodyless)
    assert not alone.is_surplus
    for pieces in ([data + surplus], [data, surplus], bytewise(data + surplus)):
        assert read(pieces, is_bodyless=is_bodyless) == Read(
            alone.status, alone.headers, alone.body, "complete", is_surplus=True
        )


def test_only_a_clear_end_lets_a_connection_be_used_again() -> None:
    def is_reusable(data: bytes, *, is_bodyless: bool = False) -> bool:
        reader = AnswerReader(LIMITS, is_bodyless=is_bodyless)
        reader.feed(data)
        reader.feed_end()
        assert reader.is_complete
        return reader.is_reusable

    length = b"Content-Length: 0\r\n\r\n"
    assert is_reusable(OK + length)
    assert is_reusable(OK + length, is_bodyless=True)
    assert is_reusable(OK + b"\r\n", is_bodyless=True)
    assert is_reusable(CHUNKED + b"0\r\n\r\n")
    assert is_reusable(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + length)
    assert is_reusable(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + length, is_bodyless=True)
    assert not is_reusable(b"HTTP/1.0 200 OK\r\n" + length)
    assert not is_reusable(b"HTTP/1.0 200 OK\r\n" + length, is_bodyless=True)
    assert not is_reusable(OK + b"Connection: a, Close\r\n" + length)
    assert not is_reusable(OK + b"Connection: a, Close\r\n" + length, is_bodyless=True)
    assert not is_reusable(OK + b"\r\nto the end")


# ---- fuzzing


def read_by_h11(data: bytes, *, is_bodyless: bool) -> Read | None:
    """The same answer read by another implementation; None where it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=4096)
    connection.send(h11.Request(method="HEAD" if is_bodyless else "GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    status, headers, body = None, (), b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Response):
            status = event.status_code
            headers = tuple((name, value) for name, value in event.headers.raw_items())
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return Read(status, headers, body, "complete")
        elif not isinstance(event, h11.InformationalResponse):
            return None


token = st.text("abcXYZ-09", min_size=1, max_size=8).map(str.encode)
value = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12).map(
    lambda text: text.strip(" \t\xa0\x85").encode("latin-1")
)
body_bytes = st.binary(max_size=60)
WHOLE_NAMES = {b"content-length", b"transfer-encoding", b"connection", b"content-encoding"}


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
    trailer = draw(st.sampled_from([b"", b"T: x\r\n"]))
    data = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return data + b"0" + extension + b"\r\n" + trailer + b"\r\n"


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Answers that are right."""
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"]))
    status = draw(st.sampled_from([200, 201, 400, 404, 500, 204, 304]))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    lines = [b"%b: %b\r\n" % pair for pair in draw(st.lists(st.tuples(token, value), max_size=4))]
    kind = draw(st.sampled_from(["length", "chunks", "end", "none"]))
    body = b""
    if status in (204, 304) or kind == "none":
        lines += [b"Content-Length: 0\r\n"] if status not in (204, 304) else []
    elif kind == "length" or (kind == "chunks" and version == b"1.0"):
        body = draw(body_bytes)
        lines.insert(draw(st.integers(0, len(lines))), b"Content-Length: %d\r\n" % len(body))
    elif kind == "chunks":
        body = draw(chunked_bodies())
        lines.insert(draw(st.integers(0, len(lines))), b"Transfer-Encoding: chunked\r\n")
    else:
        body = draw(body_bytes)
    return interim + b"HTTP/%b %d Fine\r\n" % (version, status) + b"".join(lines) + b"\r\n" + body


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@settings(max_examples=100, deadline=None)
@given(st.data(), answers(), st.booleans())
def test_a_right_answer_is_read_as_h11_reads_it_however_it_is_split(
    data: st.DataObject, answer: bytes, is_bodyless: bool
) -> None:
    whole = read([answer], is_bodyless=is_bodyless)
    assert whole.end == "complete"
    pieces = read(data.draw(splits(answer)), is_bodyless=is_bodyless)
    assert pieces == whole
    expected = read_by_h11(answer, is_bodyless=is_bodyless)
    assert expected is not None
    lower = tuple((name.lower(), value) for name, value in whole.headers)
    assert (whole.status, whole.body, lower) == (
        expected.status,
        expected.body,
        tuple((name.lower(), value) for name, value in expected.headers),
    )


SPLICES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n", b"0", b"f"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data(), answers(), st.booleans())
def test_a_mutated_answer_is_refused_or_read_the_same_however_it_is_split(
    data: st.DataObject, answer: bytes, is_bodyless: bool
) -> None:
    """And where it is read, h11 reads the same or refuses: no answer means one thing here and another there."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(answer)))
        gone = data.draw(st.integers(0, 4))
        answer = answer[:at] + data.draw(st.sampled_from([b"", *SPLICES])) + answer[at + gone :]
    whole = read([answer], is_bodyless=is_bodyless)
    pieces = read(data.draw(splits(answer)), is_bodyless=is_bodyless)
    if whole.end != "complete" or pieces.end != "complete":
        assert whole.end == pieces.end
        return
    # Empty lines after an answer are seen or not, depending on the split; they only cost the connection.
    assert (pieces.status, pieces.headers, pieces.body) == (whole.status, whole.headers, whole.body)
    expected = read_by_h11(answer, is_bodyless=is_bodyless)
    if expected is not None:
        assert (whole.status, whole.body) == (expected.status, expected.body)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.binary(max_size=200))
@example(None, b"HTTP/1.1 200 OK\r\n\r\n")
def test_no_bytes_crash_the_reader(data: st.DataObject | None, junk: bytes) -> None:
    for prefix in (b"", OK, CHUNKED):
        answer = prefix + junk
        pieces = data.draw(splits(answer)) if data is not None else bytewise(answer)
        assert read(pieces).end in {"complete", "cut", "Malformed", "HeadTooLarge", "UnsupportedEncoding"}


def test_an_answer_with_the_head_of_the_last_one_is_what_a_parser_makes_of_it() -> None:
    """All that follow the first in one piece are read by its head: each must be as if it had been parsed."""
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\nContent-Length: %d\r\nx: y\r\n\r\n"
    last = LastAnswer()
    for body in (b"first", b"other", b"longer than before", b"", b"1"):
        known, parsed = AnswerReader(LIMITS, last=last), AnswerReader(LIMITS)
        for reader in (known, parsed):
            reader.feed(head % len(body) + body)
        assert known.head is not None
        assert parsed.head is not None
        assert (known.head[:2], list(known.head.headers)) == (parsed.head[:2], list(parsed.head.headers))
        assert (known.take(), known.is_complete, known.is_reusable) == (body, True, True)
        known.feed(b"more")
        assert (known.has_surplus, known.is_reusable) == (True, False)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",  # more than one
        OK + b"content-length: 2\r\n\r\no",
        OK + b"content-length: 2\r\nconnection: close\r\n\r\nok",
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok",
    ],
)
def test_an_answer_that_is_more_than_its_head_and_its_length_is_parsed_every_time(answer: bytes) -> None:
    last = LastAnswer()
    for _ in range(2):
        known, parsed = AnswerReader(LIMITS, last=last), AnswerReader(LIMITS)
        told = []
        for reader in (known, parsed):
            try:
                reader.feed(answer)
                error = ""
            except HttpError as raised:
                error = str(raised)
            told.append((error, reader.take(), reader.is_complete, reader.is_reusable, reader.has_surplus))
        assert told[0] == told[1]
        assert last.read(answer) is None
