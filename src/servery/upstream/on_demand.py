"""An upstream whose model comes into memory when it is asked for, and leaves it when it is not: around another one."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from servery.engine.glimpse import Glimpse
from servery.engine.stats import EngineInfo, EngineLife, EngineStats
from servery.telemetry.residency import ModelState
from servery.upstream.ask import Ask
from servery.upstream.residence import Residence, Sleeper
from servery.upstream.upstream import Call, Chunk, Health, Upstream
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError
from servery.wire.models import Model
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest


class SleepingUpstream(Upstream, Sleeper, Protocol):
    """An upstream whose model can leave memory, and what is told of it."""

    async def start(self, memory_bytes: int | None = None) -> None:
        """Load the model, which may take so much memory."""

    def info(self) -> EngineInfo | None:
        """What was resolved when it was loaded."""

    def look(self) -> Glimpse | None:
        """What its engine was seen to do since the last look."""

    def life(self) -> EngineLife:
        """How often its process failed."""
        ...

    def adapter_uses(self) -> Mapping[str, int]:
        """How many requests asked for each adapter."""
        ...


class OnDemandUpstream:
    """Answers once the model is where `residence` says that it has to be."""

    def __init__(self, inner: SleepingUpstream, residence: Residence) -> None:
        self.name = inner.name
        self.residence = residence
        self._inner = inner

    async def start(self) -> None:
        """Load the model; raises `EngineError` with the reason when it cannot be."""
        await self.residence.load()

    async def stop(self) -> None:
        """End everything; answers under way fail."""
        await self.residence.stop()

    def health(self) -> Health:
        """As the inner one's while it is loaded; else requests are taken if they may wait for it."""
        residence = self.residence
        if residence.state is ModelState.LOADED:
            return self._inner.health()
        if residence.failure is not None and residence.state is not ModelState.LOADING:
            # One of many that come when they are asked for keeps no requests from the others.
            reason = f"it could not be loaded: {residence.failure}"
            return Health(False, reason, 0.0, is_wanted=not residence.stay.on_demand)
        has_room = residence.waiting < residence.stay.max_waiting
        is_ready = residence.may_come and has_room
        reason = f"it is {residence.state.value}" if has_room else "too many requests wait for it"
        return Health(is_ready, reason, 0.0, is_wanted=residence.may_come or residence.state is ModelState.LOADING)

    def model(self) -> Model:
        """The model's description, with its state."""
        return self._with_state(self._inner.model())

    def adapters(self) -> Mapping[str, Model]:
        """The LoRA adapters that can be asked for."""
        return {name: self._with_state(each) for name, each in self._inner.adapters().items()}

    def _with_state(self, model: Model) -> Model:
        figures = self.residence.figures()
        return msgspec.structs.replace(model, state=figures.state.value, load_error=figures.error)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Let requests ask for the adapter in a folder; raises `ApiError`."""
        async with self.residence.use(None):
            await self._inner.load_adapter(name, path)

    def unload_adapter(self, name: str) -> int:
        """Let no further request ask for an adapter; returns how many are answered with it now. Raises `ApiError`."""
        state = self.residence.state
        if state is not ModelState.LOADED:
            raise ApiError(409, f"The model '{self.name}' is {state.value}; load it first.", code="model_not_loaded")
        return self._inner.unload_adapter(name)

    def adapter_uses(self) -> Mapping[str, int]:
        """How many requests asked for each adapter that can be asked for."""
        return self._inner.adapter_uses()

    def look(self) -> Glimpse | None:
        """What the engine was seen to do since the last look, while the model is loaded."""
        return self._inner.look() if self.residence.state is ModelState.LOADED else None

    def stats(self) -> EngineStats | None:
        """The engine's figures while the model is loaded."""
        return self._inner.stats() if self.residence.state is ModelState.LOADED else None

    def info(self) -> EngineInfo | None:
        """What was resolved when the model was loaded, while it is."""
        return self._inner.info() if self.residence.state is ModelState.LOADED else None

    def life(self) -> EngineLife:
        """How often the engine's process failed and was started again."""
        return self._inner.life()

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        """The answer, once the model is there; raises `ApiError`."""
        ask.typed()  # what is wrong with the request costs no load
        chunks = self._inner.answer(ask, call)
        async with self.residence.use(call.deadline), contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        """The body of the answer to `/tokenize`; a model that sleeps need not wake for it."""
        async with self._texts():
            return await self._inner.tokenize(request)

    async def count(self, request: ChatRequest) -> int:
        """How many tokens the chat's prompt has; a model that sleeps need not wake for it."""
        async with self._texts():
            return await self._inner.count(request)

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """The body of the answer to `/detokenize`; a model that sleeps need not wake for it."""
        async with self._texts():
            return await self._inner.detokenize(request)

    def _texts(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Inside, what belongs to the text is there: it stays when the model sleeps."""
        is_known = self._inner.info() is not None and self.residence.may_come
        return contextlib.nullcontext() if is_known else self.residence.use(None)
