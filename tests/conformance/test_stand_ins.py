"""What is asked for by a made-up id is there; everything else passes as it is."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conformance.stand_ins import Maker, standing_in, with_segments, with_values


class Echo(BaseHTTPRequestHandler):
    """Answers every request with what it was; posts to /made make objects."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        told = {"id": f"made-{len(body)}", "path": self.path, "body": body.decode(), "x": self.headers.get("x-given")}
        data = json.dumps(told).encode()
        self.send_response_only(418 if self.path == "/refused" else 200)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-told", "yes")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Quietly."""


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str, body: bytes | None = None, method: str | None = None) -> tuple[int, str | None, dict[str, str]]:
    request = urllib.request.Request(url, body, {"x-given": "1", "content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["x-told"], json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["x-told"], json.load(error)


def test_named_objects_are_made_and_the_rest_passes(echo: str) -> None:
    with standing_in(echo, {"file_id": Maker.response}) as url:
        made = {"x": "1", "id": "made-0", "body": ""}
        assert ask(f"{url}/v1/files/file_id/content?a=file_id") == (
            200, "yes", {**made, "path": f"/v1/files/{made_id(echo)}/content?a=file_id"},
        )  # fmt: skip
        assert ask(f"{url}/v1/files/other", method="DELETE") == (200, "yes", {**made, "path": "/v1/files/other"})
        body = ask(f"{url}/v1/batches", b'{"input": "file_id", "deep": {"a": "file_id"}}')[2]["body"]
        assert json.loads(body) == {"input": made_id(echo), "deep": {"a": "file_id"}}
        assert ask(f"{url}/refused", b"{}")[0] == 418


def made_id(echo: str) -> str:
    """What the maker is told by the echo: it always sends the same."""
    return Maker(echo).response()


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (None, None),
        (b"--B\r\nfile_id\r\n", b"--B\r\nfile_id\r\n"),
        (b'["file_id"]', b'["file_id"]'),
        (b'{"file_id": "x"}', b'{"file_id": "x"}'),
        (b'{"file_id": "file_id"}', b'{"file_id": "f1"}'),
    ],
)
def test_only_values_at_the_top_are_replaced(body: bytes | None, changed: bytes | None) -> None:
    assert with_values(body, {"file_id": "f1"}) == changed


def test_only_whole_segments_are_replaced() -> None:
    assert with_segments("/v1/files/file_id/file_id2?x=file_id", {"file_id": "f1"}) == "/v1/files/f1/file_id2?x=file_id"
