"""Where a server listens: the origin of an `http://` or `https://` address, and the path that an API lies under."""

import ipaddress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from servery.http.errors import BadUrl

_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXAMPLE = "write one such as https://api.example.com/v1"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM format for one origin: authorities beside the system's, and the certificate that we show.

    `key` may be left out where the certificate's file holds the key as well.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """A server. Origins that differ in their TLS files are different: they share no connections."""

    scheme: str
    host: str  # lower case, IPv6 without brackets
    port: int
    tls: TlsFiles = TlsFiles()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up with every request; the generated hash would walk the fields each time.
        object.__setattr__(self, "_hash", hash((self.scheme, self.host, self.port, self.tls)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_tls(self) -> bool:
        """Whether the bytes are encrypted."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """`host:port` as in a Host header; the port is left out where it is the scheme's own."""
        return self.bracketed_host if self.port == _DEFAULT_PORTS[self.scheme] else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """`host:port`, the port always there."""
        return f"{self.bracketed_host}:{self.port}"

    @property
    def bracketed_host(self) -> str:
        """The host, an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Url(NamedTuple):
    """An origin and the path under which its API lies: `/v1`, or nothing. Never ends with a slash."""

    origin: Origin
    path: str


def parse_url(text: str, tls: TlsFiles = TlsFiles()) -> Url:
    """Read an address such as `https://api.example.com/v1`.

    Raises `BadUrl` for what is no address, for another scheme, and for an address with credentials, a query or a
    fragment. A password in it is not repeated.
    """
    if any(character <= " " or character == "\x7f" for character in text):  # urlsplit drops some of them
        raise BadUrl(f"{_without_credentials(text)!r} has spaces or control characters in it; write them as %XX.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"{_without_credentials(text)!r} is not an address ({error}); {_EXAMPLE}.") from None
    if parts.username is not None or parts.password is not None:
        raise BadUrl(f"{_without_credentials(text)!r} holds credentials; give them as a header or an API key instead.")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise BadUrl(f"{text!r} is not an http:// or https:// address; {_EXAMPLE}.")
    if "?" in text or "#" in text:
        raise BadUrl(f"{text!r} has a query or a fragment; {_EXAMPLE}.")
    if not parts.path.isascii():
        raise BadUrl(f"{text!r} has characters outside ASCII in its path; write them as %XX.")
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    return Url(Origin(parts.scheme, _checked_host(parts.hostname, text), port, tls), parts.path.rstrip("/"))


def _checked_host(host: str, text: str) -> str:
    if ":" in host or "[" in text or host.replace(".", "").isdigit():
        try:
            return ipaddress.ip_address(host).compressed
        except ValueError:
            raise BadUrl(f"{text!r} has {host!r} for a host, which is no IP address; {_EXAMPLE}.") from None
    try:
        ascii_host = host.rstrip(".").encode("ascii" if host.isascii() else "idna").decode()
    except UnicodeError:
        ascii_host = ""
    if not ascii_host or len(ascii_host) > 253 or not all(c.isalnum() or c in "-._" for c in ascii_host):
        raise BadUrl(f"{text!r} has {host!r} for a host, which is no host name; {_EXAMPLE}.")
    return ascii_host


def _without_credentials(text: str) -> str:
    head, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    return head + separator + authority.rpartition("@")[2] + slash + path if separator else text.rpartition("@")[2]
