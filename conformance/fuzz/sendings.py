"""Requests of every route, with the heads and the manners that clients have."""

from urllib.parse import quote

from hypothesis import strategies as st

from conformance.fuzz.bodies import PATHS, bodies
from conformance.fuzz.exchange import Manners, Sending
from conformance.fuzz.values import texts
from servery.server.routes import ROUTES

_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "BREW")
_TYPES = ("application/json",) * 60 + (
    "", "application/JSON; charset=utf-8", "application/json; charset=latin-1", "text/plain", "multipart/form-data", "\u00fc",
)  # fmt: skip
_OTHER_HEADERS = (
    ("anthropic-version", "2023-06-01"), ("x-request-id", "a b"), ("x-request-id", "x" * 400), ("authorization", "Bearer x"),
    ("authorization", "Basic"), ("content-encoding", "gzip"), ("expect", "100-continue"), ("x-api-key", "\u00fc"), ("accept", "x"),
    ("x-long", "y" * 40_000),
)  # fmt: skip
_QUERIES = (
    "limit=2",
    "limit=-1",
    "limit=9e9",
    "after=x",
    "after_id=amuse",
    "stream=true",
    "order=up",
    "beta=true",
    "%",
    "a=%00",
)
_UPLOADED = ("/v1/files",)
_WITH_BODIES = [route for route in ROUTES if route.path in (*PATHS, *_UPLOADED) and route.method == "POST"]
_quoted = texts.map(lambda text: quote(text.encode("utf-8", "surrogatepass")))
_ids = st.one_of(
    st.sampled_from(("amuse", "resp_1", "file-1", "batch_1", "..", "%2e%2e%2f", "%00", "a/b", "index.html", "")),
    _quoted,
)


@st.composite
def sendings(draw: st.DrawFn) -> Sending:
    """One request."""
    route = draw(st.sampled_from(_WITH_BODIES if draw(st.integers(0, 3)) else ROUTES))
    method = draw(st.sampled_from(_METHODS)) if draw(st.integers(0, 20)) == 0 else route.method
    body, kind = b"", draw(st.sampled_from(_TYPES))
    if route.path in PATHS and method == route.method:
        body = draw(bodies(route.path))
    elif route.path in _UPLOADED and method == "POST":
        body, kind = draw(_forms())
    target = draw(_targets(route.path))
    headers = [("content-type", kind), *_framing(draw, len(body) if body or method == "POST" else None)]
    headers += draw(st.lists(st.sampled_from(_OTHER_HEADERS), max_size=2)) if draw(st.integers(0, 5)) == 0 else []
    manners = draw(st.sampled_from((Manners.WAITS,) * 6 + tuple(Manners)))
    return Sending(
        method=method,
        target=target,
        headers=tuple(headers),
        body=body,
        manners=manners,
        after=draw(st.integers(0, 2000)) if manners in (Manners.LEAVES, Manners.BREAKS_OFF) else 0,
    )


@st.composite
def _targets(draw: st.DrawFn, path: str) -> str:
    """The route's path with something in place of its names, at times with a query, at times another altogether."""
    segments = [draw(_ids) if segment.startswith("{") else segment for segment in path.split("/")]
    target = "/".join(segments)
    if draw(st.integers(0, 40)) == 0:
        target = "/" + draw(_quoted)
    query = draw(st.sampled_from(_QUERIES)) if draw(st.integers(0, 8)) == 0 else ""
    return f"{target}?{query}" if query else target


def _framing(draw: st.DrawFn, length: int | None) -> list[tuple[str, str]]:
    """How long the body is said to be; a lie now and then."""
    if length is None:
        return []
    if draw(st.integers(0, 40)) == 0:
        return [("content-length", draw(st.sampled_from((str(length + 5), "0", "-1", "x", "9" * 30, str(10**9)))))]
    return [("content-length", str(length))]


@st.composite
def _forms(draw: st.DrawFn) -> tuple[bytes, str]:
    """A file in a form, and the form's content type."""
    name, purpose = draw(texts), draw(st.sampled_from(("batch", "user_data", "", "x" * 2000)))
    content = draw(st.one_of(st.binary(max_size=300), bodies("/v1/completions")))
    parts = [
        f'--B\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'.encode(),
        f'--B\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode("utf-8", "surrogatepass")
        + content + b"\r\n",
        draw(st.sampled_from((b"", b"", b"--B\r\ncontent-disposition: form-data\r\n\r\nx\r\n", b"--B\r\n\r\n"))),
    ]  # fmt: skip
    data = b"".join(draw(st.permutations(parts))) + draw(st.sampled_from((b"--B--\r\n", b"--B--\r\n", b"", b"--B")))
    kind = draw(
        st.sampled_from(
            ("multipart/form-data; boundary=B",) * 4 + ("multipart/form-data", "multipart/form-data; boundary=")
        )
    )
    return data, kind
