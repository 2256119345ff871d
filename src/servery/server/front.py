"""The models of a configuration as upstreams: each with all its deployments behind it, for what is not an answer."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import msgspec

from servery.engine.stats import EngineStats
from servery.gateway.dispatch.served import Served
from servery.gateway.gateway import Gateway
from servery.upstream.ask import Ask
from servery.upstream.upstream import Call, Chunk, Health, Upstream
from servery.wire.chat import ChatRequest
from servery.wire.models import Model
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest


class Fronts(Mapping[str, Upstream]):
    """All models of the gateway's fleet, by their names; always those of now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __getitem__(self, name: str) -> Upstream:
        return Front(self._gateway.fleet.models[name])

    def __contains__(self, name: object) -> bool:
        return name in self._gateway.fleet.models

    def __iter__(self) -> Iterator[str]:
        return iter(self._gateway.fleet.models)

    def __len__(self) -> int:
        return len(self._gateway.fleet.models)


class Front:
    """One model. What only an engine of this process can do is done by the first of its deployments that is one."""

    def __init__(self, served: Served) -> None:
        self.name = served.name
        self._deployments = served.deployments
        own = [each for each in self._deployments if each.is_own]
        self._first = (own or self._deployments)[0].upstream

    async def start(self) -> None:
        """Deployments are started one by one, by who has them."""

    async def stop(self) -> None:
        """And stopped."""

    def health(self) -> Health:
        """Ready if any deployment is; alive unless an engine of this process is not: others are restarted elsewhere."""
        states = [each.upstream.health() for each in self._deployments]
        best = max(states, key=lambda state: state.is_ready)
        is_alive = all(each.upstream.health().is_alive for each in self._deployments if each.is_own)
        is_wanted = any(state.is_wanted for state in states)
        return Health(best.is_ready, best.reason, best.heartbeat_age_s, is_alive=is_alive, is_wanted=is_wanted)

    def model(self) -> Model:
        """The model's description, under its own name; its context is the longest of its deployments'."""
        lengths = [each.upstream.model().max_model_len or 0 for each in self._deployments]
        return msgspec.structs.replace(
            self._first.model(), id=self.name, root=self.name, max_model_len=max(lengths) or None
        )

    def adapters(self) -> Mapping[str, Model]:
        """Those of the engine of this process, if there is one."""
        named = self._first.adapters()
        return {
            name: msgspec.structs.replace(each, id=f"{self.name}:{name}", parent=self.name)
            for name, each in named.items()
        }

    async def load_adapter(self, name: str, path: Path) -> None:
        """As the deployment's own."""
        await self._first.load_adapter(name, path)

    def unload_adapter(self, name: str) -> int:
        """As the deployment's own."""
        return self._first.unload_adapter(name)

    def stats(self) -> EngineStats | None:
        """As the deployment's own."""
        return self._first.stats()

    def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        """Raises `ValueError`: answers go through the gateway, which knows which deployment gives them."""
        _not_here()

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        """As the deployment's own."""
        return await self._first.tokenize(request)

    async def count(self, request: ChatRequest) -> int:
        """As the deployment's own."""
        return await self._first.count(request)

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """As the deployment's own."""
        return await self._first.detokenize(request)


def _not_here() -> NoReturn:
    raise ValueError("a model is answered by its deployments, through the gateway")
