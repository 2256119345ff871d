"""Somebody else's OpenAI-compatible server, in a thread: it keeps what it was sent, and the model's name says what it answers."""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNTS = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


@dataclass
class Recorder:
    """`asked` are the requests: path, headers by their names in lower case, body. `says` is in every answer."""

    says: str = "hello"
    leaks: str = "nothing"
    redirect: str = ""
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    recorder: Recorder
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.recorder.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, b""))
        self._send(404, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.recorder.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        asked = json.loads(body)
        known = [self.headers.get("authorization", ""), self.headers.get("x-team", ""), self.recorder.leaks]
        kind, leaks = asked["model"], " ".join([*known, body.decode()])
        if kind == "redirecting":
            self._send(302, b"", location=self.recorder.redirect)
        elif kind.isdigit():
            error = {"message": leaks, "type": leaks, "code": leaks, "param": leaks}
            self._send(int(kind), json.dumps({"error": error}).encode())
        elif kind == "html":
            self._send(200, leaks.encode(), "text/html")
        elif kind == "in-band":
            self._send(200, f"data: {json.dumps({'error': {'message': leaks, 'code': 500}})}\n\n".encode(), _EVENTS)
        elif asked.get("stream"):
            self._send(200, _streamed(self.recorder.says), _EVENTS)
        else:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": self.recorder.says},
                "finish_reason": "stop",
            }
            answer = {"id": "x", "object": "chat.completion", "created": 1, "model": kind, "choices": [choice]}
            self._send(200, json.dumps({**answer, "usage": COUNTS}).encode())

    def _send(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        internal = {"set-cookie": f"session={self.recorder.leaks}", "x-internal-host": self.recorder.leaks,
                    "openai-organization": self.recorder.leaks, "x-ratelimit-remaining-requests": "99999"}  # fmt: skip
        for name, value in {"content-type": content_type, **internal, **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


_EVENTS = "text/event-stream"


def _streamed(says: str) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    first = {**head, "choices": [{"index": 0, "delta": {"content": says}, "finish_reason": None}]}
    last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {**head, "choices": [], "usage": COUNTS}
    return b"".join(f"data: {json.dumps(each)}\n\n".encode() for each in (first, last, usage)) + b"data: [DONE]\n\n"


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """The server while it runs."""
    handler = type("Handler", (_Handler,), {"recorder": recorder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        recorder.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join(60)
