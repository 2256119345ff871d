"""Whether a model is in memory: it comes when it is asked for, stays while it is used, and leaves when it is not."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from servery.engine.errors import CannotSleep, EngineDead, EngineError, NotEnoughMemory
from servery.telemetry.residency import ModelState, ReleasedBy, Residency
from servery.upstream.eviction import Holder
from servery.upstream.roster import Roster
from servery.wire.errors import ApiError, rate_limited, unavailable

log = logging.getLogger(__name__)

# A model that could not be loaded is not tried again for every request.
RETRY_S = 5.0
LOADING_RETRY_S = 1.0
LIGHT_SLEEP, PROCESS_ENDS = 1, 2


class Sleeper(Protocol):
    """A model that can leave memory."""

    @property
    def name(self) -> str:
        """What clients ask for."""
        ...

    async def start(self, memory_bytes: int | None = None) -> None:
        """Load the model, which may take so much memory; raises `LoadError`, `EngineDead`."""

    async def stop(self) -> None:
        """Let go of everything; what is under way fails."""

    async def sleep(self) -> int:
        """Give the memory back but keep the process; returns how many bytes. Raises `CannotSleep`, `EngineDead`."""
        ...

    async def wake(self) -> None:
        """Undo `sleep`; raises `NotEnoughMemory`, and it sleeps on; `EngineDead`."""

    @property
    def is_asleep(self) -> bool:
        """Whether there is a process that sleeps."""
        ...

    @property
    def needed_bytes(self) -> int:
        """What it takes of the memory when it is awake; 0 before it was ever loaded."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What it takes of the memory now."""
        ...

    def reason(self, error: Exception) -> str:
        """Why it could not be loaded, without where files lie on this machine."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """When a model comes into memory and when it leaves.

    After `keep_alive_s` without a request it sleeps (None: never, 0: at once), at `sleep_level` 1 (the process stays, its
    weights go to a disk) or 2 (the process ends). With `on_demand` requests load a model that is not loaded. At most
    `max_waiting` requests wait for it at a time.
    """

    keep_alive_s: float | None = None
    sleep_level: int = PROCESS_ENDS
    on_demand: bool = False
    max_waiting: int = 512


class Busy(Exception):
    """The model has requests under way that did not end in time."""


class Residence:
    """One model's coming and going. Loading and leaving are seen through whoever goes away meanwhile."""

    def __init__(
        self, model: Sleeper, stay: Stay, roster: Roster, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stay = stay
        self.state = ModelState.UNLOADED
        self.sleep_level = 0
        self.waiting = 0
        self._model = model
        self._roster = roster
        self._clock = clock
        self._users = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()
        self._last_used_s = clock()
        self._changing = asyncio.Lock()
        self._may_wake = False  # it was loaded, and nobody unloaded it
        self._coming: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: tuple[EngineError | OSError, float] | None = None
        self._loads = self._failed_loads = 0
        self._load_s = 0.0
        self._releases = dict.fromkeys(ReleasedBy, 0)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def may_come(self) -> bool:
        """Whether a request brings the model into memory."""
        return self.stay.on_demand or self._may_wake

    @property
    def failure(self) -> str | None:
        """Why the model could not be loaded a moment ago."""
        is_recent = self._failure is not None and self._clock() < self._failure[1] + RETRY_S
        return self._model.reason(self._failure[0]) if self._failure is not None and is_recent else None

    def figures(self) -> Residency:
        """Where the model is, and how often it came and went."""
        is_out = self.state in (ModelState.UNLOADED, ModelState.SLEEPING)
        has_failed = self._failure is not None and is_out
        return Residency(
            state=ModelState.FAILED if has_failed else self.state,
            loads=self._loads,
            failed_loads=self._failed_loads,
            load_s=self._load_s,
            error=self._model.reason(self._failure[0]) if self._failure is not None and is_out else None,
            releases=dict(self._releases),
        )

    # Being used.

    @contextlib.asynccontextmanager
    async def use(self, deadline: float | None) -> AsyncIterator[None]:
        """Inside, the model is in memory and stays; raises `ApiError` if it cannot be by the deadline."""
        if self.state is not ModelState.LOADED:
            await self._wait(deadline)
        self._users += 1
        self._is_idle.clear()
        self._cancel_timer()
        try:
            yield
        finally:
            self._users -= 1
            self._last_used_s = self._clock()
            if not self._users:
                self._is_idle.set()
                self._watch_idleness()

    async def _wait(self, deadline: float | None) -> None:
        if self.waiting >= self.stay.max_waiting:
            raise rate_limited(f"{self.waiting} requests wait for '{self.name}' to be loaded already.", RETRY_S)
        self.waiting += 1
        self._nobody_waits.clear()
        try:
            while self.state is not ModelState.LOADED:
                self._refuse_if_vain()
                await self._wait_for(self._ask_to_come(), deadline)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._nobody_waits.set()
            self._watch_idleness()

    def _refuse_if_vain(self) -> None:
        if not self.may_come and self.state is ModelState.LOADING:
            raise unavailable(f"The model '{self.name}' is being loaded; try again in a moment.", LOADING_RETRY_S)
        if not self.may_come:
            message = f"The model '{self.name}' is not loaded, and requests do not load it: POST /v1/models/load does."
            raise ApiError(503, message, kind="server_error", code="model_not_loaded", is_final=True)
        if self.failure is not None and self.state is not ModelState.LOADING:
            raise unavailable(f"The model '{self.name}' could not be loaded: {self.failure}", RETRY_S)

    async def _wait_for(self, coming: "asyncio.Task[None]", deadline: float | None) -> None:
        left_s = None if deadline is None else max(0.0, deadline - self._clock())
        await asyncio.wait((coming,), timeout=left_s)
        if coming.done() and not coming.cancelled() and self.failure is None:
            coming.result()  # what is nobody's fault but ours
        if not coming.done() or coming.cancelled():
            raise unavailable(f"The model '{self.name}' is still being loaded; try again in a moment.", RETRY_S)

    # Coming.

    async def load(self) -> None:
        """Load the model, or wake it; raises `EngineError` with the reason when it cannot be. Safe to call twice."""
        await asyncio.shield(self._ask_to_come())

    async def occupy(self, memory_bytes: int | None) -> None:
        """See `Member`."""
        model = self._model
        if model.is_asleep:
            if memory_bytes is not None and model.needed_bytes > memory_bytes:
                raise NotEnoughMemory(
                    f"not enough memory: {self.name} needs {model.needed_bytes} bytes, and {memory_bytes} of --memory are "
                    "left. Raise --memory, or unload another model.",
                    model.needed_bytes,
                )
            with contextlib.suppress(EngineDead):  # it died in its sleep: then it is loaded
                await model.wake()
                return
        await model.start(memory_bytes)

    def _ask_to_come(self) -> "asyncio.Task[None]":
        if self._coming is None or self._coming.done():
            self._coming = self._begin(self._come())
        return self._coming

    async def _come(self) -> None:
        async with self._changing:
            if self.state is ModelState.LOADED:
                return
            after: ModelState = self.state
            started = self._clock()
            self.state = ModelState.LOADING
            try:
                self._roster.add(self)
                await self._roster.admit(self)
            except (EngineError, OSError) as error:  # OSError: no process to be had just now
                self._failed_loads += 1
                self._failure = (error, self._clock())
                if self.may_come:  # else whoever asked for it says so
                    log.error("%s could not be loaded: %s", self.name, error)
                raise
            else:
                after = ModelState.LOADED
            finally:
                self.state = after
            self._may_wake, self.sleep_level, self._failure = True, 0, None
            self._loads += 1
            self._last_used_s = self._clock()
            self._load_s += self._last_used_s - started
            self._watch_idleness()

    # Going.

    def holder(self) -> Holder:
        """See `Member`."""
        return Holder(
            name=self.name,
            memory_bytes=self._model.memory_bytes,
            last_used_s=self._last_used_s,
            is_asleep=self.state is ModelState.SLEEPING,
            is_busy=bool(self._users or self.waiting) or self._changing.locked(),
        )

    async def make_room(self) -> None:
        """See `Member`."""
        await self._leave(PROCESS_ENDS, ReleasedBy.MEMORY, ModelState.SLEEPING)

    async def sleep(self, level: int, patience_s: float) -> None:
        """Sleep once all requests under way have ended; raises `Busy` if they have not in time, `CannotSleep`.

        A process that dies meanwhile has left memory, too: the next request loads the model.
        """
        await asyncio.shield(self._begin(self._leave(level, ReleasedBy.ADMIN, ModelState.SLEEPING, patience_s)))

    async def unload(self, patience_s: float) -> None:
        """Leave memory, and take no request but one that may load it; what has not ended in time is ended."""
        self._may_wake, self._failure = False, None
        leaving = self._leave(PROCESS_ENDS, ReleasedBy.ADMIN, ModelState.UNLOADED, patience_s, ends_all=True)
        await asyncio.shield(self._begin(leaving))

    async def stop(self) -> None:
        """End everything; what is under way fails."""
        self._cancel_timer()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._model.stop()
        self.state, self._may_wake = ModelState.UNLOADED, False
        self._roster.remove(self)

    async def _leave(
        self, level: int, by: ReleasedBy, to: ModelState, patience_s: float = 0.0, *, ends_all: bool = False
    ) -> None:
        async with self._going(patience_s, ends_all=ends_all):
            is_deep_enough = to is ModelState.SLEEPING and self.sleep_level >= level
            if self.state is ModelState.UNLOADED or (self.state is ModelState.SLEEPING and is_deep_enough):
                return
            before, self.state = self.state, ModelState.RELEASING
            try:
                if not await self._in_time(self._is_idle, patience_s) and not ends_all:
                    raise Busy(f"{self._users} requests are under way")
                level = await self._let_go(level)
            except BaseException:
                self.state = before
                self._watch_idleness()
                raise
            self._cancel_timer()
            self.state, self.sleep_level = to, level if to is ModelState.SLEEPING else 0
            self._may_wake &= to is ModelState.SLEEPING  # it may have come while it was told to go
            self._releases[by] += 1
            log.info("%s has left memory (%s, level %d)", self.name, by.value, level)

    @contextlib.asynccontextmanager
    async def _going(self, patience_s: float, *, ends_all: bool) -> AsyncIterator[None]:
        """Inside, nothing else changes where the model is. Those who waited for it to come are let in first."""
        while True:
            async with self._changing:
                if self.state is not ModelState.LOADED or not self.waiting or ends_all:
                    yield
                    return
            if not await self._in_time(self._nobody_waits, patience_s) and self.waiting:
                raise Busy(f"{self.waiting} requests wait for it")

    async def _let_go(self, level: int) -> int:
        """Give the memory back; returns the level that was reached: a process that dies on its way to sleep has ended."""
        if level != PROCESS_ENDS:
            try:
                await self._model.sleep()
            except EngineDead as error:
                log.warning("%s ended instead of going to sleep: %s", self.name, error)
            else:
                return level
        await self._model.stop()
        return PROCESS_ENDS

    async def _in_time(self, event: asyncio.Event, patience_s: float) -> bool:
        """Wait for something; whether it came in time."""
        try:
            async with asyncio.timeout(patience_s):
                await event.wait()
        except TimeoutError:
            return False
        return True

    def _watch_idleness(self) -> None:
        self._cancel_timer()
        is_idle = self.state is ModelState.LOADED and not self._users and not self.waiting
        if self.stay.keep_alive_s is not None and is_idle:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.stay.keep_alive_s, lambda: self._begin(self._fall_asleep()))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _fall_asleep(self) -> None:
        if self._users or self.waiting:
            return  # the last of them looks again
        try:
            await self._leave(self.stay.sleep_level, ReleasedBy.KEEP_ALIVE, ModelState.SLEEPING)
        except Busy:
            return  # as above
        except CannotSleep as error:
            log.warning("%s cannot sleep at level %d, so it ends: %s", self.name, self.stay.sleep_level, error)
            await self._leave(PROCESS_ENDS, ReleasedBy.KEEP_ALIVE, ModelState.SLEEPING)

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """A task that is kept until it is done; who waits for it may go away."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._is_done)
        return task

    def _is_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever wanted to know may have gone
