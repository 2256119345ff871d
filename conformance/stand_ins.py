"""What a suite asks for by made-up ids, made when it asks: a proxy before the server under test.

Suites that are written against a mock read, change and delete objects that nobody ever created, such as the file
`file_id`. Here each request that names one finds a real object, made for it by the server's own API a moment before;
nothing else is changed, and answers are passed on as they are.
"""

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

_TIMEOUT_S = 60
# Of the connection, and so not of the message.
_HOP_BY_HOP = frozenset(("connection", "content-length", "host", "transfer-encoding", "date", "server"))
# So many that the batch is still under way when it is asked for.
_BATCH_LINES = 200


class Maker:
    """Makes objects by the API at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def response(self) -> str:
        """A response that is kept."""
        return self._post("/v1/responses", {"model": "amuse", "input": "hi", "max_output_tokens": 1})

    def file(self) -> str:
        """The requests of a batch."""
        body = {"model": "amuse", "input": "hi", "max_output_tokens": 200, "temperature": 0}
        lines = [
            {"custom_id": f"r{at}", "method": "POST", "url": "/v1/responses", "body": body}
            for at in range(_BATCH_LINES)
        ]
        content = "\n".join(map(json.dumps, lines))
        form = (
            '--B\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--B\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n{content}\r\n--B--\r\n'
        )
        return self._send("/v1/files", form.encode(), "multipart/form-data; boundary=B")

    def batch(self) -> str:
        """A batch that has begun."""
        asked = {"input_file_id": self.file(), "endpoint": "/v1/responses", "completion_window": "24h"}
        return self._post("/v1/batches", asked)

    def _post(self, path: str, body: Mapping[str, Any]) -> str:
        return self._send(path, json.dumps(body).encode(), "application/json")

    def _send(self, path: str, body: bytes, kind: str) -> str:
        request = urllib.request.Request(self._url + path, body, {"content-type": kind})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            made: str = json.load(answer)["id"]
        return made


Makers = Mapping[str, Callable[[Maker], str]]

OPENAI_IDS: Makers = {
    "resp_677efb5139a88190b512bc3fef8e535d": Maker.response,
    "response_id": Maker.response,
    "file_id": Maker.file,
    "input_file_id": Maker.file,
    "batch_id": Maker.batch,
}


@contextlib.contextmanager
def standing_in(url: str, makers: Makers) -> Iterator[str]:
    """The address of a proxy before `url`."""
    methods = {f"do_{method}": _Handler.pass_on for method in ("GET", "POST", "DELETE", "PUT", "PATCH")}
    handler = type("Handler", (_Handler,), {"upstream": url, "made_up": makers, **methods})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: ClassVar[str] = ""
    made_up: ClassVar[Makers] = {}

    def pass_on(self) -> None:
        """Any method: make what is named, ask the server, tell what it says."""
        body = self.rfile.read(int(self.headers.get("content-length", "0"))) or None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        made = {name: make(Maker(self.upstream)) for name, make in self.made_up.items() if self._names(name, body)}
        target = self.upstream + with_segments(self.path, made)
        request = urllib.request.Request(target, with_values(body, made), headers, method=self.command)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                self._answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error.code, error.headers, error.read())

    def _names(self, name: str, body: bytes | None) -> bool:
        mark = {name: ""}
        return with_segments(self.path, mark) != self.path or with_values(body, mark) != body

    def _answer(self, status: int, headers: Any, body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The server has a log of its own."""


def with_segments(target: str, made: Mapping[str, str]) -> str:
    """A path in which made-up ids are replaced, and its query as it was."""
    path, mark, query = target.partition("?")
    return "/".join(made.get(segment, segment) for segment in path.split("/")) + mark + query


def with_values(body: bytes | None, made: Mapping[str, str]) -> bytes | None:
    """A JSON body in which made-up ids are replaced, at its top only; another body as it was."""
    if body is None or not any(name.encode() in body for name in made):
        return body
    try:
        value = json.loads(body)
    except ValueError:
        return body
    if not isinstance(value, dict) or not any(isinstance(each, str) and each in made for each in value.values()):
        return body
    changed = {key: made.get(each, each) if isinstance(each, str) else each for key, each in value.items()}
    return json.dumps(changed).encode()
