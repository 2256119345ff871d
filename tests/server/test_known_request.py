"""A head that is the one before but for its length is read once; whatever else it is goes to the parser."""

import pytest

from servery.server.known_request import KnownRequest
from servery.server.types import Scope

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\nauthorization: Bearer k\r\n\r\n"


def scope_of(*fields: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "method": "POST", "path": "/v1/x", "headers": list(fields), "fields": dict(fields)}


def known(body: bytes = b"12345") -> KnownRequest:
    fields = ((b"host", b"a"), (b"content-length", b"%d" % len(body)), (b"authorization", b"Bearer k"))
    found = KnownRequest.of(HEAD % len(body) + body, scope_of(*fields))
    assert found is not None
    return found


def test_the_same_head_has_the_same_scope() -> None:
    head = known()
    first, second = head.request(HEAD % 5 + b"abcde"), head.request(HEAD % 5 + b"fghij")
    assert first is not None
    assert second is not None
    assert (first[1], second[1]) == (b"abcde", b"fghij")
    assert first[0] is second[0]


@pytest.mark.parametrize("body", [b"", b"1234"])
def test_a_body_that_has_not_come_whole_is_missed(body: bytes) -> None:
    found = known(body).request(HEAD % 9 + body)
    assert found is not None
    assert (found[0]["fields"][b"content-length"], found[1:]) == (b"9", (body, 9 - len(body)))
    assert KnownRequest.of(HEAD % 9 + body, found[0]) is not None
    assert KnownRequest.of(HEAD % 9 + b"1234567890", found[0]) is None


def test_another_length_is_told_and_nothing_else_changes() -> None:
    found = known().request(HEAD % 11 + b"hello world")
    assert found is not None
    scope, body, missing = found
    fields = [(b"host", b"a"), (b"content-length", b"11"), (b"authorization", b"Bearer k")]
    assert (body, missing, scope["headers"], scope["fields"]) == (b"hello world", 0, fields, dict(fields))
    assert (scope["method"], scope["path"]) == ("POST", "/v1/x")


@pytest.mark.parametrize(
    "data",
    [
        HEAD % 5 + b"123456",  # and the beginning of another
        HEAD.replace(b"%d", b"+5") + b"12345",
        HEAD.replace(b"%d", b"5 ") + b"12345",
        HEAD.replace(b"%d", b"5, 5") + b"12345",
        HEAD.replace(b"%d", b"0x5") + b"12345",
        HEAD.replace(b"%d", b"\xb2") + b"12",  # a digit to `str`, not to HTTP
        HEAD.replace(b"%d", b"") + b"12345",
        (HEAD % 5).replace(b"Bearer k", b"Bearer l") + b"12345",
        (HEAD % 5).replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n") + b"12345",
        (HEAD % 5)[:-1],  # not all of it
        b"",
    ],
)
def test_what_is_not_one_request_with_this_head_is_left_to_the_parser(data: bytes) -> None:
    assert known().request(data) is None


@pytest.mark.parametrize(
    "more",
    [
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"upgrade", b"h2c"),
        (b"connection", b"keep-alive, upgrade"),
        (b"connection", b"close"),
        (b"host", b"b"),  # twice
    ],
)
def test_a_head_that_is_framed_otherwise_is_read_every_time(more: tuple[bytes, bytes]) -> None:
    lines = b"host: a\r\ncontent-length: 2\r\n" + b"%b: %b\r\n" % more
    data = b"POST /v1/x HTTP/1.1\r\n" + lines + b"\r\nab"
    assert KnownRequest.of(data, scope_of((b"host", b"a"), (b"content-length", b"2"), more)) is None


def test_to_say_that_the_connection_is_kept_is_to_say_nothing() -> None:
    more = (b"connection", b"Keep-Alive")
    data = b"POST /v1/x HTTP/1.1\r\nConnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nab"
    assert KnownRequest.of(data, scope_of(more, (b"content-length", b"2"))) is not None


def test_a_length_whose_bytes_are_not_where_it_was_found_is_not_known() -> None:
    """A name that ends like the length's, before it: the parser read the later one."""
    data = b"POST /v1/x HTTP/1.1\r\nx: y\r\ncontent-length:  2\r\n\r\nab"
    assert KnownRequest.of(data, scope_of((b"x", b"y"), (b"content-length", b"2"))) is None


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\n"])
def test_a_head_that_may_end_earlier_is_not_known(end: bytes) -> None:
    data = b"POST /v1/x HTTP/1.1\r\ncontent-length: 9" + end + b"\r\n\r\n"
    assert KnownRequest.of(data, scope_of((b"content-length", b"9"))) is None
