"""`AsyncEngine`, the handle a server holds: an engine process, its requests under way, and its restarts."""

import asyncio
import enum
import logging
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Callable

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.channel import (
    Abort,
    AdapterFailed,
    AdapterLoaded,
    Add,
    FromCore,
    LoadAdapter,
    LoadFailed,
    Loading,
    Outputs,
    Ready,
    Refused,
    ToCore,
    UnloadAdapter,
)
from servery.engine.config import EngineConfig
from servery.engine.core_process import CoreProcess
from servery.engine.errors import (
    EngineDead,
    EngineError,
    InvalidRequest,
    LoadError,
    NotEnoughMemory,
    Overloaded,
    PromptTooLong,
    RequestFailed,
    UnknownAdapter,
)
from servery.engine.lora.registry import AdapterRegistry
from servery.engine.mailbox import Mailbox
from servery.engine.request import FinishReason, NewRequest, Output
from servery.engine.shortage import killed
from servery.engine.stats import EngineInfo, EngineLife, EngineStats

log = logging.getLogger(__name__)

FIRST_RESTART_S = 0.5
MAX_RESTART_S = 30.0
# A process that lived this long was healthy: the next restart starts over with the shortest wait.
HEALTHY_AFTER_S = 60.0


class EngineState(enum.Enum):
    """Where the engine is in its life."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Failure(enum.Enum):
    """What became of a process that nobody had told to end."""

    DIED = "died"
    HUNG = "hung"


class AsyncEngine:
    """One model in a process of its own.

    `start` loads it, `generate` runs requests, `stop` ends it. When the process dies, or hangs and is killed for it,
    requests under way fail with `EngineDead` and it is started again, waiting 0.5 s at first and twice as long each
    time, at most 30 s. `failures` counts both. `name` is what logs call it, else the checkpoint's folder.
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
        self._restart_at = clock()
        self._mailboxes: dict[str, Mailbox] = {}
        self._process: CoreProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
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

    async def start(self) -> None:
        """Start the process and wait until the model and its adapters are loaded; raises `LoadError` with the reason."""
        process = await self._launch()
        for source in self.config.adapters:
            await self._load_first(process, *self.adapters.begin(source), source)
        self.state = EngineState.READY
        self._supervisor = asyncio.create_task(self._supervise(process), name="engine-supervisor")

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
                        raise _failure(output)
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
        self.adapters.fail_unfinished(error)

    def _unload(self, adapter_id: int) -> None:
        self._send(UnloadAdapter(adapter_id=adapter_id))

    def _send(self, message: ToCore) -> None:
        if self._process is not None:
            self._process.send(message)

    # The process: launch, read, supervise, end.

    async def _launch(self) -> CoreProcess:
        process = self._process = await CoreProcess.launch(self.config, self.name)
        planned: Loading | None = None
        while messages := await process.receive():
            for message in messages:
                match message:
                    case Loading():
                        planned = message
                    case Ready(info=info):
                        self._info = info
                        return process
                    case LoadFailed():
                        await self._end_process()
                        raise _load_error(message)
        raise _ended_while_loading(await self._end_process(), planned, self.config)

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
            self.state = EngineState.RESTARTING
            await self._bury(process)
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
            case Refused(request_id=request_id):
                if mailbox := self._mailboxes.get(request_id):
                    mailbox.refuse(_error(message))
            case AdapterLoaded(info=info):
                log.info("adapter %s is loaded: rank %d, %d bytes", info.name, info.rank, info.nbytes)
                self.adapters.succeed(info)
            case AdapterFailed(adapter_id=adapter_id, message=reason):
                log.error("an adapter of %s could not be loaded: %s", self.name, reason)
                self.adapters.fail(adapter_id, LoadError(reason))

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
            for adapter_id, source in self.adapters.sources:
                self._send(_load_message(adapter_id, source, at_once=True))
            self.state = EngineState.READY
            self.restarts += 1
            log.info("the engine process of %s is back (restart %d)", self.name, self.restarts)
            return process, wait_s

    async def _end_process(self) -> int | None:
        """Ask the process to stop, make it if it does not; returns its exit status."""
        process, self._process = self._process, None
        return None if process is None else await process.end()


def _load_error(failed: LoadFailed) -> LoadError:
    return (
        LoadError(failed.message)
        if failed.needed_bytes is None
        else NotEnoughMemory(failed.message, failed.needed_bytes)
    )


def _ended_while_loading(status: int | None, planned: Loading | None, config: EngineConfig) -> LoadError:
    if status == -signal.SIGKILL and planned is not None:
        return NotEnoughMemory(killed(config, planned.text), planned.needed_bytes)
    return LoadError(f"the engine process ended with status {status} while it loaded {config.model}.")


def _because(hang: str | None) -> str:
    return "" if hang is None else f": it was killed, because {hang}"


def _load_message(adapter_id: int, source: AdapterSource, *, at_once: bool = False) -> LoadAdapter:
    return LoadAdapter(adapter_id=adapter_id, name=source.name, path=str(source.path), at_once=at_once)


def _seed(request: NewRequest) -> int:
    return request.params.seed if request.params.seed is not None else secrets.randbits(63)


def _failure(output: Output) -> EngineError:
    message = output.error or "the engine failed while computing this request."
    if output.retry_after_s is not None:
        return Overloaded(message, output.retry_after_s)
    if output.invalid_param is not None:
        return InvalidRequest(message, output.invalid_param)
    return RequestFailed(message)


def _error(refused: Refused) -> EngineError:
    if refused.kind == Overloaded.__name__:
        return Overloaded(refused.message, refused.retry_after_s)
    if refused.kind == PromptTooLong.__name__:
        return PromptTooLong(refused.message, refused.param)
    if refused.kind == UnknownAdapter.__name__:
        return UnknownAdapter(refused.message, refused.param)
    return InvalidRequest(refused.message, refused.param)
