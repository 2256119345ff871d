"""Which proxy leads to an origin, as the environment says: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY.

The variables are read as `urllib.request.getproxies_environment` reads them: lower case wins, an empty lower-case one
switches the other off, and HTTP_PROXY is ignored in a CGI program (REQUEST_METHOD is set), where a client could set it.
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from servery.http.errors import BadUrl
from servery.http.url import Origin

_SUFFIX = "_proxy"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `authorization` is the value of the header that it wants, and never shown."""

    host: str
    port: int
    authorization: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of an environment, by scheme, and the origins that are reached without."""

    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may hold passwords
    bypass: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Proxies":
        """Read the variables."""
        found = _by_scheme(environment)
        bypass = found.pop("no", "").lower().replace(",", " ").split()
        return cls({scheme: found[scheme] for scheme in ("http", "https", "all") if scheme in found}, tuple(bypass))

    def for_origin(self, origin: Origin) -> Proxy | None:
        """The proxy on the way to `origin`, if there is one. Raises `BadUrl` for one that this client cannot use."""
        scheme = origin.scheme if origin.scheme in self.addresses else "all"
        if scheme not in self.addresses or any(_covers(rule, origin) for rule in self.bypass):
            return None
        return _parse(self.addresses[scheme], f"{scheme.upper()}{_SUFFIX.upper()}")


def _by_scheme(environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in environment.items():
        if value and name.lower().endswith(_SUFFIX):
            found[name.lower().removesuffix(_SUFFIX)] = value
    if "REQUEST_METHOD" in environment:
        found.pop("http", None)
    for name, value in environment.items():
        if name.endswith(_SUFFIX):
            found.pop(name.lower().removesuffix(_SUFFIX), None)
            if value:
                found[name.lower().removesuffix(_SUFFIX)] = value
    return found


def _parse(text: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"{variable} is no address of a proxy ({error}); write http://host:port.") from None
    if parts.scheme != "http" or not parts.hostname:
        raise BadUrl(
            f"{variable} names a proxy that speaks {parts.scheme or 'nothing'}; only http://host:port can be used."
        )
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(credentials.encode())
    return Proxy(parts.hostname, port or 80, authorization)


def _covers(rule: str, origin: Origin) -> bool:
    """Whether an entry of NO_PROXY (a name with what is below it, an address, a network; with or without port) holds."""
    if rule == "*":
        return True
    try:
        network = ipaddress.ip_network(rule.strip("[]"), strict=False)
    except ValueError:
        return _covers_name(rule, origin)
    try:
        return ipaddress.ip_address(origin.host) in network
    except ValueError:
        return False


def _covers_name(rule: str, origin: Origin) -> bool:
    host, colon, port = rule.rpartition(":")
    if not colon or not port.isdigit():
        host, port = rule, str(origin.port)
    host = host.strip("[]").removeprefix("*").lstrip(".")
    return port == str(origin.port) and bool(host) and (origin.host == host or origin.host.endswith(f".{host}"))
