import pytest

from servery.http.errors import BadUrl
from servery.http.url import Origin, TlsFiles, Url, parse_url


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://api.example.com/v1", Url(Origin("https", "api.example.com", 443), "/v1"), "api.example.com"),
        ("http://127.0.0.1:8000", Url(Origin("http", "127.0.0.1", 8000), ""), "127.0.0.1:8000"),
        ("HTTP://LocalHost:80/", Url(Origin("http", "localhost", 80), ""), "localhost"),
        ("https://h:80/openai/v1/", Url(Origin("https", "h", 80), "/openai/v1"), "h:80"),
        ("http://[::1]:9/", Url(Origin("http", "::1", 9), ""), "[::1]:9"),
        ("http://[2001:0DB8:0::1]/", Url(Origin("http", "2001:db8::1", 80), ""), "[2001:db8::1]"),
        ("https://under_score.svc.cluster.local./a%20b", Url(Origin("https", "under_score.svc.cluster.local", 443), "/a%20b"), "under_score.svc.cluster.local"),
        ("https://bücher.example", Url(Origin("https", "xn--bcher-kva.example", 443), ""), "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_an_address_is_an_origin_and_a_path(text: str, url: Url, authority: str) -> None:
    assert parse_url(text) == url
    assert parse_url(text).origin.authority == authority


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("api.example.com", "is not an http:// or https:// address"),
        ("ftp://a/b", "is not an http:// or https:// address"),
        ("http://", "is not an http:// or https:// address"),
        ("http:///v1", "is not an http:// or https:// address"),
        ("http://a:b", "is not an address"),
        ("http://a:70000", "is not an address"),
        ("http://[::1", "is not an address"),
        ("http://[v1.x]/", "is no"),
        ("http://a/?x=1", "has a query or a fragment"),
        ("http://a/#x", "has a query or a fragment"),
        ("http://a/b c", "has spaces or control characters in it"),
        (" http://a/", "has spaces or control characters in it"),
        ("http://a\tb/", "has spaces or control characters in it"),
        ("http://a/\xe4", "has characters outside ASCII in its path"),
        ("http://a_b,c/", "is no host name"),
        ("http://a;b/", "is no host name"),
        ("http://" + "a" * 300, "is no host name"),
        ("http://127.1/", "is no IP address"),
        ("http://2130706433/", "is no IP address"),
    ],
)
def test_what_is_no_address_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(BadUrl, match=why):
        parse_url(text)


@pytest.mark.parametrize(
    "text", ["http://me:secret@a/", "http://:secret@a:b/", "https://secret@a", "http://x:secret@a/?q"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_origins_with_other_tls_files_are_others() -> None:
    plain, private = (parse_url("https://a", files).origin for files in (TlsFiles(), TlsFiles(ca="ca.pem")))
    assert plain != private
    assert plain == parse_url("https://A:443/v1").origin
    assert hash(plain) == hash(parse_url("https://A:443/v1").origin)
    assert str(private) == "https://a"
