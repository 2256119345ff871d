import os
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.http.errors import BadUrl
from servery.http.proxy import Proxies, Proxy
from servery.http.url import parse_url


def way(url: str, **environment: str) -> Proxy | None:
    return Proxies.from_environment(environment).for_origin(parse_url(url).origin)


def test_each_scheme_has_its_variable() -> None:
    both = {"HTTP_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}
    assert way("http://x", **both) == Proxy("a", 1)
    assert way("https://x", **both) == Proxy("b", 2)
    assert way("https://x", HTTP_PROXY="http://a:1") is None
    assert way("https://x", ALL_PROXY="http://c:3", HTTP_PROXY="http://a:1") == Proxy("c", 3)
    assert way("http://x", HTTP_PROXY="a:1") == Proxy("a", 1)
    assert way("http://x", HTTP_PROXY="http://a") == Proxy("a", 80)
    assert way("http://x") is None


def test_credentials_become_a_header_and_are_never_shown() -> None:
    proxy = way("http://x", HTTP_PROXY="http://us%40er:p%3Aw@a:1")
    assert proxy == Proxy("a", 1, b"Basic dXNAZXI6cDp3")
    assert "dXN" not in repr(proxy)
    assert str(proxy) == "http://a:1"
    proxies = Proxies.from_environment({"HTTP_PROXY": "http://me:secret@a:1"})
    assert "secret" not in repr(proxies)


@pytest.mark.parametrize(
    "value", ["socks5://me:secret@a:1", "https://me:secret@a:1", "http://me:secret@a:b", "http://"]
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(value: str) -> None:
    with pytest.raises(BadUrl, match="HTTPS_PROXY") as caught:
        way("https://x", HTTPS_PROXY=value)
    assert "secret" not in str(caught.value)
    assert way("http://x", HTTPS_PROXY=value) is None


@pytest.mark.parametrize(
    ("rules", "url", "is_direct"),
    [
        ("*", "http://a", True),
        ("example.com", "http://example.com", True),
        ("example.com", "http://api.example.com", True),
        ("example.com", "http://badexample.com", False),
        (".example.com", "http://api.example.com", True),
        ("*.example.com", "http://api.example.com", True),
        ("EXAMPLE.com", "http://Example.COM", True),
        ("a, b  c", "http://c", True),
        ("a:8000", "http://a:8000", True),
        ("a:8000", "http://a:8001", False),
        ("a:80", "http://a", True),
        ("10.0.0.0/8", "http://10.1.2.3:9", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("10.1.2.3:80", "http://10.1.2.3:81", False),
        ("10.0.0.0/8", "http://ten.example", False),
        ("fd00::/8", "http://[fd00::1]", True),
        ("[::1]", "http://[::1]:5", True),
        ("[::1]:5", "http://[::1]:5", True),
        ("::1", "http://[::1]:5", True),
        ("localhost,127.0.0.1", "http://127.0.0.1:1", True),
        (".", "http://a", False),
        ("", "http://a", False),
    ],
)
def test_no_proxy_names_hosts_suffixes_networks_and_ports(rules: str, url: str, is_direct: bool) -> None:
    assert (way(url, HTTP_PROXY="http://p:1", NO_PROXY=rules) is None) is is_direct


names = st.sampled_from(["http_proxy", "HTTP_PROXY", "Http_Proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "REQUEST_METHOD", "PATH"])  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(names, st.sampled_from(["", "http://a:1", "http://b:2"])))
def test_the_variables_are_read_as_the_standard_library_reads_them(environment: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        expected = urllib.request.getproxies_environment()
    proxies = Proxies.from_environment(environment)
    assert dict(proxies.addresses) == {name: expected[name] for name in ("http", "https", "all") if name in expected}
    assert proxies.bypass == tuple([expected["no"]] if "no" in expected else [])
