"""An upstream that answers by a script: pieces, waits and failures, as faults at the server's edge need them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from servery.engine.config import EngineConfig
from servery.engine.stats import EngineStats
from servery.gateway.gateway import Gateway
from servery.server.admin import AdminDoor
from servery.server.app import App
from servery.server.implied import implied_fleet
from servery.server.metrics_door import MetricsDoor
from servery.server.options import ServedModel, ServeOptions
from servery.server.service import Service
from servery.telemetry.metrics import Metrics
from servery.upstream.ask import Ask, ModelRequest
from servery.upstream.residence import Residence
from servery.upstream.upstream import Call, Chunk, Health, Upstream
from servery.wire.chat import ChatRequest
from servery.wire.errors import invalid, model_not_found
from servery.wire.models import Model
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest, encode_text, encode_tokens

Step: TypeAlias = Chunk | Exception | asyncio.Event


class FakeUpstream:
    """Plays `script` for every request: sends chunks, raises exceptions, waits for events."""

    def __init__(self, *script: Step, name: str = "m") -> None:
        self.name = name
        self.script: Sequence[Step] = script
        self.state = Health(True, "", 0.5)
        self.requests: list[tuple[ModelRequest, Call]] = []
        self.asks: list[Ask] = []
        self.begun = asyncio.Event()
        self.closed = 0
        self.loaded: dict[str, Path] = {}

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def health(self) -> Health:
        return self.state

    def model(self) -> Model:
        return Model(id=self.name, created=1, max_model_len=2048, root=self.name)

    def adapters(self) -> dict[str, Model]:
        return {
            name: Model(id=f"{self.name}:{name}", created=1, max_model_len=2048, root=self.name, parent=self.name)
            for name in self.loaded
        }

    async def load_adapter(self, name: str, path: Path) -> None:
        if name in self.loaded:
            raise invalid(f"'{name}' is loaded already.", "lora_name")
        self.loaded[name] = path

    def unload_adapter(self, name: str) -> int:
        if self.loaded.pop(name, None) is None:
            raise model_not_found(name, self.loaded)
        return 2

    def stats(self) -> EngineStats | None:
        return None

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        self.requests.append((ask.typed(), call))
        self.asks.append(ask)
        self.begun.set()
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed += 1

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        return encode_tokens([1, 2], 2048, None)

    async def count(self, request: ChatRequest) -> int:
        return 2

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        return encode_text("text")


def _now() -> float:
    return asyncio.get_running_loop().time()


def make_service(*upstreams: Upstream, residences: Mapping[str, Residence] | None = None, **options: Any) -> Service:
    """A service with these upstreams; its clock is the event loop's."""
    models = tuple(ServedModel(name=each.name, engine=EngineConfig(model=Path("/nowhere"))) for each in upstreams)
    served = ServeOptions(models=models, **options)
    by_name: dict[str, Upstream] = {each.name: each for each in upstreams}
    metrics, keys = Metrics(), served.key_ring()
    return Service(
        upstreams=by_name,
        gateway=Gateway(implied_fleet(by_name, served.request_timeout_s, _now), metrics, clock=_now),
        metrics=metrics,
        options=served,
        residences=residences or {},
        keys=keys,
        admin=AdminDoor(served.admin_keys, keys, served.host),
        metrics_door=MetricsDoor(served.metrics_keys, served.admin_keys, keys),
        clock=_now,
    )


def make_app(*upstreams: FakeUpstream, **options: Any) -> App:
    """An application that serves these upstreams."""
    return App(make_service(*upstreams, **options))
