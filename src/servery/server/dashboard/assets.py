"""The files of the page, as they lie in the package, and the headers that go with everything of the dashboard."""

import gzip
import hashlib
import importlib.resources
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

_TYPES = MappingProxyType(
    {
        "html": "text/html; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
        "txt": "text/plain; charset=utf-8",
    }
)
# Only what the page itself consists of: no script of its markup, nothing from elsewhere, in nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)


class Asset(NamedTuple):
    """A file: its bytes as they are and packed, what it is, and a tag that changes with it."""

    data: bytes
    packed: bytes
    content_type: str
    tag: str


@lru_cache(1)
def assets() -> Mapping[str, Asset]:
    """All files, by their names; read once."""
    folder = importlib.resources.files("servery.server.dashboard") / "static"
    found = {}
    for path in folder.iterdir():
        kind = path.name.rpartition(".")[2]
        if kind in _TYPES:
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
            found[path.name] = Asset(data, gzip.compress(data, 9, mtime=0), _TYPES[kind], tag)
    return MappingProxyType(found)
