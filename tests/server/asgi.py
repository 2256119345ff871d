"""A client that speaks ASGI with an application in the same process and event loop."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from servery.server.app import App
from servery.server.types import Event, Send


@dataclass
class Call:
    """One request under way: what it is given, what came back so far."""

    task: "asyncio.Task[None]"
    to_app: "asyncio.Queue[dict[str, Any]]"
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    writes: list[str] = field(default_factory=list)
    is_complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The data of every event so far; comments are left out."""
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]

    def disconnect(self) -> None:
        """The client closes its connection."""
        self.to_app.put_nowait({"type": "http.disconnect"})

    def feed(self, body: bytes, *, more: bool = False) -> None:
        """A further part of the request's body."""
        self.to_app.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def until(self, text: bytes) -> None:
        """Wait until the answer contains `text`."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: text in self.body or self.task.done())
        assert text in self.body

    async def send(self, event: Event) -> None:
        async with self.changed:
            if event["type"] == "http.response.start":
                assert self.status is None
                self.status = event["status"]
                self.headers = {name.decode(): value.decode() for name, value in event["headers"]}
                self.writes.append("head")
            else:
                assert self.status is not None
                assert not self.is_complete
                self.body += event["body"]
                self.is_complete = not event.get("more_body", False)
                self.writes.append("body")
            self.changed.notify_all()


def start(
    app: App,
    method: str,
    path: str,
    body: bytes | None = b"",
    *,
    send: Send | None = None,
    peer: str = "127.0.0.1",
    **headers: str,
) -> Call:
    """Send a request; with `body` None only its head. Names of headers are written with underscores."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    call: Call
    scope = {
        "type": "http",
        "method": method,
        "path": path.partition("?")[0],
        "query_string": path.partition("?")[2].encode(),
        "client": (peer, 50000),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    started = asyncio.Event()

    async def go() -> None:
        await started.wait()
        await app(scope, to_app.get, send or call.send)

    call = Call(asyncio.create_task(go()), to_app)
    if body is not None:
        call.feed(body)
    started.set()
    return call


async def ask(app: App, method: str, path: str, body: Any = b"", **headers: str) -> Call:
    """Send a request and wait for the whole answer; a body that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = start(app, method, path, data, **headers)
    async with asyncio.timeout(60):
        await call.task
    return call
