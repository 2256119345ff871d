"""A server with a dashboard, in this process."""

import asyncio
import json
from dataclasses import replace
from typing import Any

from servery.config.types import LedgerConfig
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.gateway import Gateway
from servery.server.app import App
from servery.server.auth import KeyRing
from servery.server.dashboard.board import Dashboard
from servery.server.service import Service
from servery.server.workers import Post
from servery.telemetry.settled import SettledRows
from servery.upstream.upstream import Chunk
from tests.server.asgi import Call, ask
from tests.server.fakes import FakeUpstream, make_service

PAGE = {"x_servery_dashboard": "1", "content_type": "application/json", "host": "127.0.0.1:8000"}
WALL_S = 1_790_000_000.0


class Board:
    """One, whose models answer "hello" in two tokens; `settled` has what they did."""

    def __init__(
        self,
        *,
        viewer_keys: tuple[str, ...] = (),
        port: int = 8000,
        post: Post | None = None,
        ledger: LedgerConfig | None = None,
        **options: Any,
    ) -> None:
        upstream = FakeUpstream(Chunk(data=b'{"id": 1}', prompt_tokens=3, tokens=2, finish_reason="stop"))
        self.wall_s = WALL_S
        self.service: Service = make_service(upstream, viewer_keys=viewer_keys, **options)
        self.settled = SettledRows()
        self.service.options = replace(self.service.options, ledger=ledger)
        self.service.gateway = Gateway(
            self.service.gateway.fleet, self.service.metrics, self.settled, clock=self.service.clock
        )
        self.service.viewers = KeyRing(viewer_keys)
        self.dashboard = Dashboard(
            self.service, self.settled, MemoryLimits(), port=port, post=post, wall=lambda: self.wall_s
        )
        self.service.dashboard = self.dashboard
        self.app = App(self.service)

    async def get(self, path: str, **headers: str) -> Call:
        return await ask(self.app, "GET", f"/dashboard{path}", **{"host": "127.0.0.1:8000", **headers})

    async def post(self, path: str, body: Any = None, **headers: str) -> Call:
        return await ask(
            self.app, "POST", f"/dashboard/api/{path}", {} if body is None else body, **{**PAGE, **headers}
        )

    async def login(self, key: str, **headers: str) -> str:
        """The cookie of a new session."""
        call = await self.post("login", {"key": key}, **headers)
        assert call.status == 200, call.body
        return call.headers["set-cookie"].partition(";")[0]

    async def close(self) -> None:
        await self.dashboard.feed.close()


def feed_of(call: Call) -> list[tuple[str, Any]]:
    """The events of a feed so far, by name."""
    found = []
    for text in call.body.decode().split("\n\n"):
        if text.startswith("event: "):
            name, _, data = text.partition("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
