"""The bytes of a request's head; what could be read as two requests, or as other headers, is refused."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from servery.http.errors import BadRequest

Header = tuple[bytes, bytes]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"/[!-~]*|\*")
_BAD_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# Everything a head may consist of. Line breaks are in it and are counted.
_HEAD_BYTES = bytes([9, 10, 13, *range(32, 127), *range(128, 256)])
# The client decides how a message is framed and whether a connection is kept.
OWN_HEADERS = frozenset(
    [
        *(b"accept-encoding", b"connection", b"content-length", b"expect", b"keep-alive", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    ]
)


def fixed_lines(more: Iterable[Header] = ()) -> bytes:
    """The lines that all requests on one way share."""
    lines = [(b"accept-encoding", b"identity"), *more]
    return b"".join(b"\r\n%s: %s" % line for line in lines)


def encode_head(
    method: str, prefix: str, target: str, host: str, fixed: bytes, headers: Sequence[Header], body_bytes: int | None
) -> bytes:
    """A request's head. `body_bytes` is the length of the body, None for one that is sent in chunks.

    `prefix` goes before the target, for a proxy. A `host` among `headers` replaces the origin's. Raises `BadRequest` for anything that is not one clean line per
    header, for a target that is no path, and for headers that are the client's own (`OWN_HEADERS`).
    """
    start, own, lines = _constant(method, prefix, target, host, tuple(headers))
    if body_bytes is None:
        own += b"\r\ntransfer-encoding: chunked"
    elif body_bytes or method in ("POST", "PUT", "PATCH"):
        own += b"\r\ncontent-length: %d" % body_bytes
    return b"%b%b%b%b\r\n\r\n" % (start, own, fixed, lines)


@lru_cache(256)
def _constant(
    method: str, prefix: str, target: str, host: str, headers: tuple[Header, ...]
) -> tuple[bytes, bytes, bytes]:
    """The first line, the host and the lines of the headers: the same in most requests that go to one place."""
    names = [_checked_name(name) for name, _ in headers]
    if names.count(b"host") > 1:
        raise BadRequest("The header 'host' is given twice; two servers could read the request differently.")
    own = b"" if b"host" in names else b"\r\nhost: " + host.encode()
    lines = b"".join([b"\r\n%s: %s" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or lines.translate(None, _HEAD_BYTES):
        raise _unclean(headers)
    return b"%b %b%b HTTP/1.1" % (_checked_method(method), prefix.encode(), _checked_target(target)), own, lines


@lru_cache(512)
def _checked_name(name: bytes) -> bytes:
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no name of a header; it may have letters, digits and !#$%&'*+-.^_`|~ only.")
    if lower in OWN_HEADERS:
        raise BadRequest(f"The header {name.decode()!r} is set by the HTTP client itself; leave it out.")
    return lower


@lru_cache(64)
def _checked_method(method: str) -> bytes:
    if not method.isascii() or not _TOKEN.fullmatch(method.encode()) or method == "CONNECT":
        raise BadRequest(f"{method[:80]!r} is no method that can be sent; use one such as GET or POST.")
    return method.encode()


@lru_cache(1024)
def _checked_target(target: str) -> bytes:
    if not _TARGET.fullmatch(target):
        raise BadRequest(f"{target[:200]!r} is no target; it must begin with / and have no spaces, write them as %20.")
    return target.encode()


def _unclean(headers: Sequence[Header]) -> BadRequest:
    name = next(name for name, value in headers if _BAD_IN_VALUE.search(value))
    return BadRequest(f"The value of the header {name.decode()!r} has a line break or a control character in it.")
