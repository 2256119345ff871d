import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.http.errors import BadRequest
from servery.http.request_head import OWN_HEADERS, Header, encode_head, fixed_lines


def head(
    method: str = "GET",
    target: str = "/",
    headers: tuple[Header, ...] = (),
    body_bytes: int | None = 0,
    prefix: str = "",
) -> bytes:
    return encode_head(method, prefix, target, "h:1", fixed_lines(), headers, body_bytes)


def test_a_head_is_what_was_asked_for_and_how_the_body_is_framed() -> None:
    same = b"accept-encoding: identity\r\n"
    assert head() == b"GET / HTTP/1.1\r\nhost: h:1\r\n" + same + b"\r\n"
    assert head("POST", "/a?b#c", ((b"X", b"y"),), 12) == (
        b"POST /a?b#c HTTP/1.1\r\nhost: h:1\r\ncontent-length: 12\r\n" + same + b"X: y\r\n\r\n"
    )
    assert b"content-length: 0\r\n" in head("POST")
    assert b"transfer-encoding: chunked\r\n" in head("POST", body_bytes=None)
    assert head(headers=((b"Host", b"other"),)) == b"GET / HTTP/1.1\r\n" + same + b"Host: other\r\n\r\n"
    assert head("OPTIONS", "*").startswith(b"OPTIONS * HTTP/1.1\r\n")
    assert head(target="/v1", prefix="http://h:1").startswith(b"GET http://h:1/v1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ((b"x", b"a\r\nb: c"), "The value of the header 'x' has a line break or a control character"),
        ((b"x", b"a\nb: c"), "line break"),
        ((b"x", b"a\rb"), "line break"),
        ((b"x", b"a\0b"), "line break"),
        ((b"x", b"\x7f"), "line break"),
        ((b"x: y\r\nz", b"a"), "is no name of a header"),
        ((b"x: y", b"a"), "is no name of a header"),
        ((b"x ", b"a"), "is no name of a header"),
        ((b"", b"a"), "is no name of a header"),
        ((b"\xe4", b"a"), "is no name of a header"),
        ((b"Content-Length", b"5"), "'Content-Length' is set by the HTTP client itself"),
    ],
)
def test_a_header_that_is_not_one_clean_line_is_refused(header: Header, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        head(headers=((b"good", b"one"), header, (b"another", b"one")))


def test_a_line_break_in_one_value_is_not_made_good_by_its_absence_elsewhere() -> None:
    with pytest.raises(BadRequest, match="'b'"):
        head(headers=((b"a", b"1"), (b"b", b"2\n"), (b"c", b"\r")))


@pytest.mark.parametrize("name", sorted(OWN_HEADERS))
def test_the_clients_own_headers_cannot_be_given(name: bytes) -> None:
    with pytest.raises(BadRequest, match="leave it out"):
        head(headers=((name.title(), b"x"),))


def test_two_hosts_are_refused() -> None:
    with pytest.raises(BadRequest, match="'host' is given twice"):
        head(headers=((b"host", b"a"), (b"Host", b"b")))


@pytest.mark.parametrize("target", ["", "v1", "/a b", "/a\r\nx: y", "/\xe4", "http://other/", "//a\tb", "/\0"])
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    with pytest.raises(BadRequest, match="is no target"):
        head(target=target)


@pytest.mark.parametrize("method", ["", "GET /", "G\r\nT", "\xe4", "CONNECT"])
def test_a_method_that_is_no_word_is_refused(method: str) -> None:
    with pytest.raises(BadRequest, match="is no method that can be sent"):
        head(method)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=12)), max_size=4),
    st.text(max_size=10).map(lambda text: "/" + text),
)
def test_whatever_is_asked_a_strict_server_sees_that_or_nothing_is_sent(headers: list[Header], target: str) -> None:
    try:
        data = head("POST", target, tuple(headers), 0)
    except BadRequest:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert request.target == target.encode()
    own = [(b"host", b"h:1"), (b"content-length", b"0"), (b"accept-encoding", b"identity")]
    assert list(request.headers) == own + [(name.lower(), value.strip(b" \t")) for name, value in headers]
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
