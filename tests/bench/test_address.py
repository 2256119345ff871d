"""Addresses are read as OpenAI's clients read a base_url, and refused with an example."""

import pytest

from servery.bench.address import Address
from servery.bench.errors import BadAddress


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("http://127.0.0.1:8000", Address("http", "127.0.0.1", 8000, "/v1", ""), "http://127.0.0.1:8000"),
        ("127.0.0.1:8000/", Address("http", "127.0.0.1", 8000, "/v1", ""), "http://127.0.0.1:8000"),
        ("localhost", Address("http", "localhost", 80, "/v1", ""), "http://localhost"),
        ("https://api.openai.com/v1", Address("https", "api.openai.com", 443, "/v1", ""), "https://api.openai.com"),
        ("https://x.org/api/v1/", Address("https", "x.org", 443, "/api/v1", "/api"), "https://x.org/api/v1"),
        ("https://x.org/v1beta/openai", Address("https", "x.org", 443, *["/v1beta/openai"] * 2), None),
        ("http://[::1]:9", Address("http", "::1", 9, "/v1", ""), "http://[::1]:9"),
    ],
)
def test_an_address_is_read(text: str, address: Address, shown: str | None) -> None:
    assert Address.parse(text) == address
    assert str(Address.parse(text)) == (shown or text)


@pytest.mark.parametrize(
    "text", ["", "ftp://x", "http://", "http://x:99999", "http://x:y", "http://u:p@x", "http://x/?a=1"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadAddress, match=r"http://127\.0\.0\.1:8000"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("x.org", False),
    ],
)
def test_this_machine_is_known_by_its_address(host: str, is_loopback: bool) -> None:
    assert Address.parse(f"http://{host}:1").is_loopback is is_loopback
