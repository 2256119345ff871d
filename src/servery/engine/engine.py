"""`AsyncEngine`, the handle a server holds: an engine process, its requests under way, and its restarts."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.channel import (
    Abort,
    AdapterFailed,
    AdapterLoaded,
    Add,
    FromCore,
    LoadAdapter,
    Look,
    Outputs,
    Refused,
    Sleep,
    SleepFailed,
    Slept,
    ToCore,
    UnloadAdapter,
    Wake,
    Woke,
)
from servery.engine.config import EngineConfig
from servery.engine.core_errors import refusal, request_error, sleep_error
from servery.engine.core_process import CoreProcess
from servery.engine.engine_state import EngineState, Failure
from servery.engine.errors import (
    CannotSleep,
    EngineDead,
    EngineError,
    InvalidRequest,
    LoadError,
    Overloaded,
)
from servery.engine.glimpse import Glimpse
from servery.engine.lora.registry import AdapterRegistry
from servery.engine.mailbox import Mailbox
from servery.engine.memory import RESERVE_BYTES
from servery.engine.request import FinishReason, NewRequest, Output
from servery.engine.stats import EngineInfo, EngineLife, EngineStats

log = logging.getLogger(__name__)

FIRST_RESTART_S = 0.5
MAX_RESTART_S = 30.0
# A process that lived this long was healthy: the next restart starts over with the shortest wait.
HEALTHY_AFTER_S = 60.0


class AsyncEngine:
    """One model in a process of its own.

    `start` loads it, `generate` runs requests, `stop` ends it, after which it may be started again; `sleep` keeps the
    process and gives its memory back until `wake`. When the process dies, or hangs and is killed for it,
    requests under way fail with `EngineDead` and it is started again, waiting 0.5 s at first and twice as long each
    time, at most 30 s; one that dies asleep is not. `failures` counts both. `needed_bytes` is the memory that it takes
    when awake, 0 before it was ever loaded. `name` is what logs call it, else the checkpoint's folder.
    """

    def __init__(
        self, config: EngineConfig, *, name: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config
        self.name = name or config.model.name
        self.failures = dict.fromkeys(Failure, 0)
        self.state = EngineState.LOADING
        self.restarts = 0
        self._clock = clock
        self._info: EngineInfo | None = None
        self._stats: EngineStats | None = None
        self._glimpse: Glimpse | None = None
        self._restart_at = clock()
        self._mailboxes: dict[str, Mailbox] = {}
        self._process: CoreProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.needed_bytes = 0
        self._has_started = False
        self._answer: asyncio.Future[Slept | Woke] | None = None  # to `Sleep` or `Wake`
        self.adapters = AdapterRegistry(self._unload)

    @property
    def info(self) -> EngineInfo:
        """What was resolved when the model was loaded; raises `EngineDead` before that."""
        if self._info is None:
            raise EngineDead("the engine has not loaded its model yet.")
        return self._info

    @property
    def stats(self) -> EngineStats | None:
        """The newest counters, at most a heartbeat old; None before the first."""
        return self._stats

    def look(self) -> Glimpse | None:
        """What was seen since the last look, None if nothing; to be called about once a second as long as somebody looks."""
        if self.state is EngineState.READY:
            self._send(Look())
        seen, self._glimpse = self._glimpse, None
        return seen

    @property
    def life(self) -> EngineLife:
        """How often the process failed and was started again."""
        return EngineLife(failures={cause.value: n for cause, n in self.failures.items()}, restarts=self.restarts)

    @property
    def is_ready(self) -> bool:
        """Whether new requests are taken."""
        return self.state is EngineState.READY

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._mailboxes)

    def heartbeat_age_s(self) -> float:
        """Seconds since the engine's loop last gave a sign of life; 0 while there is none that could."""
        return 0.0 if self._process is None else self._clock() - self._process.pulse.last().at_s

    @property
    def restart_in_s(self) -> float:
        """Seconds until a process that died is started again; 0 if there is one."""
        return max(0.0, self._restart_at - self._clock())

    @property
    def memory_bytes(self) -> int:
        """What it takes of the memory, or will once it needs it; asleep what a process takes."""
        if self._process is None and self.state is not EngineState.RESTARTING:
            return 0
        return RESERVE_BYTES if self.state is EngineState.ASLEEP else self.needed_bytes

    async def start(self, memory_bytes: int | None = None) -> None:
        """Start the process and wait until the model and its adapters are loaded; raises `LoadError` with the reason.

        `memory_bytes`, if given, is all that it may take.
        """
        self.state = EngineState.LOADING
        if memory_bytes is not None:
            self.config = replace(self.config, memory_bytes=memory_bytes)
        process = await self._launch()
        self._reload_adapters()
        if not self._has_started:
            for source in self.config.adapters:
                if source.name not in self.adapters.loaded:  # by an attempt that failed later
                    await self._load_first(process, *self.adapters.begin(source), source)
        if self.state is not EngineState.LOADING:
            await self._end_process()
            raise EngineDead("the engine was stopped while it was loading.")
        self.state = EngineState.READY
        self._has_started = True
        self._supervisor = asyncio.create_task(self._supervise(process), name="engine-supervisor")

    async def sleep(self) -> int:
        """Give the memory of weights and KV cache back until `wake`; returns how many bytes. Not to be cancelled.

        Raises `CannotSleep` with the reason, also while requests are under way; `EngineDead`.
        """
        self._check_is_ready()
        if self._mailboxes:
            raise CannotSleep(f"{len(self._mailboxes)} requests are under way; let them end, or abort them.")
        self.state = EngineState.ASLEEP  # from here on nothing is taken
        try:
            slept = await self._ask(Sleep())
        except CannotSleep:
            self.state = EngineState.READY
            raise
        return slept.freed_bytes if isinstance(slept, Slept) else 0

    async def wake(self) -> None:
        """Take requests again. Raises `NotEnoughMemory`, and it sleeps on; `EngineDead`. Not to be cancelled."""
        if self.state is not EngineState.ASLEEP:
            raise EngineDead(f"the engine is {self.state.value}, not asleep.")
        await self._ask(Wake())
        self.state = EngineState.READY

    async def generate(self, request: NewRequest) -> AsyncGenerator[Output, None]:
        """Outputs as they come, until every completion has finished. Close the iterator to abort the request.

        Raises `InvalidRequest`, `PromptTooLong` or `Overloaded` before the first output; `EngineDead` or
        `RequestFailed` at any time.
        """
        self._check_can_take(request)
        mailbox = self._mailboxes[request.request_id] = Mailbox()
        unfinished = request.params.n
        try:
            self._send(Add(request=request, seed=_seed(request)))
            while unfinished:
                try:
                    outputs = await mailbox.take()
                except (InvalidRequest, Overloaded):
                    unfinished = 0  # the core never took it: nothing to abort
                    raise
                for output in outputs:
                    if output.finish_reason is FinishReason.ERROR:
                        raise request_error(output)
                    unfinished -= output.finish_reason is not None
                    yield output
        finally:
            self._forget(request.request_id, abort=unfinished > 0)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Stop computing one completion of a request, or all of it; unknown ids are ignored.

        Its `generate` sees no further output of that completion.
        """
        if self.state is EngineState.READY:
            self._send(Abort(request_id=request_id, index=index))

    async def load_adapter(self, source: AdapterSource) -> AdapterInfo:
        """Let requests name the adapter in a folder; one whose caller goes away meanwhile is loaded all the same.

        Raises `LoadError` with the reason when it cannot be used, `EngineDead`.
        """
        self._check_is_ready()
        adapter_id, loaded = self.adapters.begin(source)
        self._send(_load_message(adapter_id, source))
        return await asyncio.shield(loaded)

    def unload_adapter(self, name: str) -> int:
        """Let no new request name an adapter; returns how many still use it. Its memory goes with the last of them.

        Raises `UnknownAdapter`, `EngineDead`.
        """
        self._check_is_ready()
        users = self.adapters.retire(name)
        log.info("adapter %s is unloaded; %d requests still use it", name, users)
        return users

    async def stop(self) -> None:
        """End the process; requests still under way fail with `EngineDead`. Safe to call twice."""
        is_loading, self.state = self.state is EngineState.LOADING, EngineState.STOPPED
        if is_loading and self._process is not None:
            self._process.kill()  # it reads no messages before it has loaded
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._fail_all(EngineDead("the engine was stopped while this request was running."))
        await self._end_process()

    async def _ask(self, message: Sleep | Wake) -> Slept | Woke:
        self._answer = asyncio.get_running_loop().create_future()
        self._send(message)
        return await self._answer

    def _check_is_ready(self) -> None:
        if self.state is not EngineState.READY:
            raise EngineDead(f"the engine is {self.state.value}; try again in a moment.")

    def _check_can_take(self, request: NewRequest) -> None:
        self._check_is_ready()
        if request.request_id in self._mailboxes:
            raise InvalidRequest(f"request id {request.request_id!r} is in use by a request under way.", "request_id")

    def _forget(self, request_id: str, *, abort: bool) -> None:
        self._mailboxes.pop(request_id, None)
        if abort:
            self.abort(request_id)

    def _fail_all(self, error: EngineError) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.refuse(error)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.adapters.fail_unfinished(error)

    def _unload(self, adapter_id: int) -> None:
        self._send(UnloadAdapter(adapter_id=adapter_id))

    def _send(self, message: ToCore) -> None:
        if self._process is not None:
            self._process.send(message)

    # The process: launch, read, supervise, end.

    async def _launch(self) -> CoreProcess:
        process = self._process = await CoreProcess.launch(self.config, self.name)
        try:
            self._info, self.needed_bytes = await process.loaded(self.config)
        except LoadError as error:
            self._process = None
            if self.state is EngineState.STOPPED:
                raise EngineDead("the engine was stopped while it was loading.") from error
            raise
        return process

    async def _load_first(
        self, process: CoreProcess, adapter_id: int, loaded: "asyncio.Future[AdapterInfo]", source: AdapterSource
    ) -> None:
        """Load an adapter before the first request; raises `LoadError`, and the process is ended then."""
        self._send(_load_message(adapter_id, source, at_once=True))
        while not loaded.done():
            messages = await process.receive()
            if not messages:
                self.adapters.fail(adapter_id, LoadError("the engine process ended while loading an adapter."))
            for message in messages:
                self._deliver(message)
        try:
            loaded.result()
        except LoadError:
            await self._end_process()
            raise

    async def _supervise(self, process: CoreProcess) -> None:
        wait_s = FIRST_RESTART_S
        while True:
            started = self._clock()
            await self._run(process)
            was_asleep = self.state is EngineState.ASLEEP
            self.state = EngineState.STOPPED if was_asleep else EngineState.RESTARTING
            await self._bury(process)
            if was_asleep:
                return  # nobody waits for it
            if self._clock() - started > HEALTHY_AFTER_S:
                wait_s = FIRST_RESTART_S
            log.info("starting the engine of %s again in %.1f s", self.name, wait_s)
            process, wait_s = await self._restart(wait_s)

    async def _run(self, process: CoreProcess) -> None:
        """Deliver what the process sends until it ends, or is ended because it hangs."""
        watching = asyncio.create_task(process.watch(), name="engine-watchdog")
        try:
            while messages := await process.receive():
                for message in messages:
                    self._deliver(message)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _bury(self, process: CoreProcess) -> None:
        """Tell everybody who waits that the process is gone, and count it."""
        if process.hang is None:
            self._fail_all(EngineDead("the engine process died while this request was running; it is being restarted."))
        else:
            self._fail_all(EngineDead(f"the engine hung ({process.hang}); it is being restarted."))
        status = await self._end_process()
        self.failures[Failure.DIED if process.hang is None else Failure.HUNG] += 1
        log.error("the engine process of %s ended with status %s%s", self.name, status, _because(process.hang))

    def _deliver(self, message: FromCore) -> None:
        match message:
            case Outputs(outputs=outputs, stats=stats):
                self._stats = stats
                for output in outputs:
                    if mailbox := self._mailboxes.get(output.request_id):
                        mailbox.put(output)
            case Glimpse():
                self._glimpse = message if self._glimpse is None else message.after(self._glimpse)
            case Refused(request_id=request_id):
                if mailbox := self._mailboxes.get(request_id):
                    mailbox.refuse(refusal(message))
            case Slept() | Woke() | SleepFailed():
                self._settle(message)
            case AdapterLoaded(info=info):
                log.info("adapter %s is loaded: rank %d, %d bytes", info.name, info.rank, info.nbytes)
                self.adapters.succeed(info)
            case AdapterFailed(adapter_id=adapter_id, message=reason):
                log.error("an adapter of %s could not be loaded: %s", self.name, reason)
                self.adapters.fail(adapter_id, LoadError(reason))

    def _settle(self, message: Slept | Woke | SleepFailed) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(message, SleepFailed):
            self._answer.set_exception(sleep_error(message))
        else:
            self._answer.set_result(message)

    async def _restart(self, wait_s: float) -> tuple[CoreProcess, float]:
        """Launch again, as often as it takes; returns the new process and the wait before the next restart."""
        while True:
            self._restart_at = self._clock() + wait_s
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RESTART_S)
            try:
                process = await self._launch()
            except (LoadError, OSError) as error:  # OSError: no process or socket to be had just now
                log.error(
                    "the engine of %s could not be restarted: %s Trying again in %.1f s", self.name, error, wait_s
                )
                continue
            self._reload_adapters()
            self.state = EngineState.READY
            self.restarts += 1
            log.info("the engine process of %s is back (restart %d)", self.name, self.restarts)
            return process, wait_s

    def _reload_adapters(self) -> None:
        for adapter_id, source in self.adapters.sources:
            self._send(_load_message(adapter_id, source, at_once=True))

    async def _end_process(self) -> int | None:
        """Ask the process to stop, make it if it does not; returns its exit status."""
        process, self._process = self._process, None
        return None if process is None else await process.end()


def _because(hang: str | None) -> str:
    return "" if hang is None else f": it was killed, because {hang}"


def _load_message(adapter_id: int, source: AdapterSource, *, at_once: bool = False) -> LoadAdapter:
    return LoadAdapter(adapter_id=adapter_id, name=source.name, path=str(source.path), at_once=at_once)


def _seed(request: NewRequest) -> int:
    return request.params.seed if request.params.seed is not None else secrets.randbits(63)
