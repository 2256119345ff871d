"""What no HTTP client would send or trust is refused where it is written; the rules are the client's own."""

import contextlib
import ipaddress
import re
from pathlib import Path

from servery.http.request_head import encode_head
from servery.http.url import parse_url

_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.ASCII | re.IGNORECASE
)
_ONLY_DIGITS = re.compile(r"[0-9.]+")
_REGION = re.compile(r"[a-z]+(-[a-z]+)+-\d{1,2}", re.ASCII)


def checked_url(url: str) -> str:
    """An address that can be asked, without a slash at its end; raises `ValueError`."""
    try:
        parse_url(url)
    except ValueError as error:
        raise _as_said(error) from None
    return url.rstrip("/")


def checked_host(host: str) -> str:
    """An address, or a host's name, to listen on; raises `ValueError`. Whether this machine has it shows at the start."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return host
    if "://" in host:
        raise ValueError(f"{host!r} is a URL; write the address alone, such as 0.0.0.0")
    if host.startswith("[") or (host.count(":") == 1 and host.rpartition(":")[2].isdigit()):
        raise ValueError(f"{host!r} is more than an address; write it without brackets, and the port as `port`")
    if not _NAME.fullmatch(host) or _ONLY_DIGITS.fullmatch(host):
        raise ValueError(
            f"{host!r} is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::"
        )
    return host


def checked_region(region: str) -> str:
    """A region of AWS by its form, for it becomes part of a host's name; raises `ValueError`."""
    if not _REGION.fullmatch(region):
        raise ValueError(f"{region!r} is no region; write one such as us-east-1 or eu-west-1")
    return region


def checked_header(name: str, value: str) -> str:
    """A header's value; raises `ValueError` for what is no header, and for what the client writes itself."""
    if name.lower() == "host" and not value.strip():
        raise ValueError("a host must not be empty; leave the header out for the url's own")
    try:
        encode_head("POST", "", "/", "host", b"", [(name.encode(), value.encode())], 0)
    except UnicodeEncodeError:
        raise ValueError("a header must be text that UTF-8 can say") from None
    except ValueError as error:
        raise _as_said(error) from None
    return value


def checked_probe_path(path: str) -> str:
    """The path that a health check asks; raises `ValueError`."""
    try:
        encode_head("GET", "", path, "host", b"", [], None)
    except ValueError as error:
        raise _as_said(error) from None
    return path


def checked_authorities(path: Path) -> Path:
    """A file of certificates to trust; raises `ValueError` for what is none."""
    import ssl  # only who names such a file waits for its loading

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"'{path}' holds no certificates that can be read; give a file in PEM format") from error
    return path


def _as_said(error: ValueError) -> ValueError:
    """What the client says, without the point at its end: the reader of sections puts it."""
    text = str(error).removesuffix(".")
    return ValueError(text[0].lower() + text[1:])
