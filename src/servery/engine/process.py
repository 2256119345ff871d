"""The engine process: a core behind a socket. Started by `AsyncEngine` as `python -m servery.engine.entry FD MEMORY CONFIG NAME`."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.channel import (
    Abort,
    AdapterFailed,
    AdapterLoaded,
    Add,
    CoreChannel,
    LoadAdapter,
    LoadFailed,
    Loading,
    Look,
    Outputs,
    Ready,
    Refused,
    Sleep,
    SleepFailed,
    Slept,
    Stop,
    ToCore,
    UnloadAdapter,
    Wake,
    Woke,
    decode_config,
)
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.doorbell import Doorbell
from servery.engine.errors import (
    CannotSleep,
    EngineDead,
    EngineError,
    InvalidRequest,
    LoadError,
    NotEnoughMemory,
    Overloaded,
)
from servery.engine.loading_bar import LoadingBar
from servery.engine.lora.background import BackgroundReader
from servery.engine.memory import KVPlan
from servery.engine.pulse import SILENCE_S, Pulse
from servery.engine.ranks.node_line import SILENCE_S as NODE_SILENCE_S
from servery.logs import TEXT, VARIABLE, set_up_logging

# Idle, the loop wakes this often to say that it is alive; under load every step says so.
HEARTBEAT_S = 0.25
# While an adapter is being read, an idle loop looks this often whether it is there.
READING_S = 0.01
# How long the loop may take to notice that one of several processes is gone.
GIVE_UP_S = 5.0

log = logging.getLogger(__name__)


def serve(core: EngineCore, channel: CoreChannel, pulse: Pulse) -> None:
    """Mailbox, step, outbox, until told to stop. Returns on `Stop`; raises `ConnectionError` when the server is gone."""
    reader = BackgroundReader(core.adapters)
    with contextlib.closing(reader):
        _loop(core, channel, reader, pulse)


def _loop(core: EngineCore, channel: CoreChannel, reader: BackgroundReader, pulse: Pulse) -> None:
    while True:
        pulse.beat()
        core.check_processes()
        core.listen()
        idle_s = READING_S if reader.is_busy else HEARTBEAT_S
        for message in channel.receive(0.0 if core.has_work else idle_s):
            if isinstance(message, Stop):
                return
            if isinstance(message, Sleep | Wake) or (isinstance(message, LoadAdapter) and message.at_once):
                pulse.read_files()
            _take(core, channel, reader, message)
        for adapter_id, outcome in reader.finished():
            channel.send(_adapter_reply(adapter_id, outcome))
        channel.send(Outputs(outputs=core.step() if core.has_work else [], stats=core.stats()))
        if (glimpse := core.glimpse()) is not None:
            channel.send(glimpse)


def _take(core: EngineCore, channel: CoreChannel, reader: BackgroundReader, message: ToCore) -> None:
    match message:
        case Add(request=request, seed=seed):
            try:
                core.add(request, seed)
            except EngineError as error:
                channel.send(_refusal(request.request_id, error))
        case Abort(request_id=request_id, index=index):
            core.abort(request_id, index)
        case LoadAdapter():
            _load_adapter(core, channel, reader, message)
        case UnloadAdapter(adapter_id=adapter_id):
            core.unload_adapter(adapter_id)
        case Look():
            core.look()
        case Sleep() | Wake():
            channel.send(_sleep_or_wake(core, message))


def _sleep_or_wake(core: EngineCore, message: Sleep | Wake) -> Slept | Woke | SleepFailed:
    try:
        if isinstance(message, Sleep):
            return Slept(freed_bytes=core.sleep())
        core.wake()
    except NotEnoughMemory as error:
        return SleepFailed(message=str(error), needed_bytes=error.needed_bytes)
    except CannotSleep as error:
        return SleepFailed(message=str(error))
    return Woke()


def _load_adapter(core: EngineCore, channel: CoreChannel, reader: BackgroundReader, message: LoadAdapter) -> None:
    adapter_id, source = message.adapter_id, AdapterSource(message.name, Path(message.path))
    try:
        if message.at_once:
            channel.send(AdapterLoaded(info=core.load_adapter(adapter_id, source)))
        else:
            reader.start(adapter_id, source)
    except LoadError as error:
        channel.send(_adapter_reply(adapter_id, error))


def _adapter_reply(adapter_id: int, outcome: AdapterInfo | LoadError) -> AdapterLoaded | AdapterFailed:
    if isinstance(outcome, LoadError):
        return AdapterFailed(adapter_id=adapter_id, message=str(outcome))
    return AdapterLoaded(info=outcome)


def _refusal(request_id: str, error: EngineError) -> Refused:
    return Refused(
        request_id=request_id,
        kind=type(error).__name__,
        message=str(error),
        param=error.param if isinstance(error, InvalidRequest) else None,
        retry_after_s=error.retry_after_s if isinstance(error, Overloaded) else 0.0,
    )


def main(fd: int, memory: int, config: EngineConfig) -> int:
    """Load, say so, serve; the exit status is 0 when told to stop, 1 when the model cannot be loaded."""
    # Ctrl-C, and the stop of a service manager, go to all processes at once; the server decides when the engine stops.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as sock:
        channel = CoreChannel(sock)
        try:
            return _load_and_serve(config, channel, Pulse(memory, others_s=_others_s(config)), Doorbell(memory))
        except ConnectionError as error:  # at any moment, also while the model was being loaded
            log.warning("the server is gone (%s); the engine stops", error)
            return 0


def _others_s(config: EngineConfig) -> float:
    """How long a step may wait for other processes; of other machines a silence is told of before the loop's is judged."""
    if config.nnodes > 1:
        return 2 * NODE_SILENCE_S
    return SILENCE_S if config.num_ranks > 1 else 0.0


def _load_and_serve(config: EngineConfig, channel: CoreChannel, pulse: Pulse, bell: Doorbell) -> int:
    def planned(plan: KVPlan) -> None:
        channel.send(Loading(needed_bytes=plan.host_bytes, text=str(plan)))

    is_loaded = threading.Event()
    try:
        with LoadingBar(f"loading {config.model.name}") as progress:
            core = EngineCore(
                config,
                progress=progress,
                planned=planned,
                before_step=pulse.step,
                bell=bell,
                on_death=lambda why: _give_up(why, None if is_loaded.is_set() else channel),
                wait=channel.check,
            )
    except (LoadError, EngineDead) as error:
        needed_bytes = error.needed_bytes if isinstance(error, NotEnoughMemory) else None
        channel.send(LoadFailed(message=str(error), needed_bytes=needed_bytes))
        return 1
    except (RuntimeError, MemoryError) as error:  # of a library, on what it could not make sense of
        log.exception("loading %s failed", config.model)
        channel.send(LoadFailed(message=f"{config.model} could not be loaded: {error}"))
        return 1
    is_loaded.set()
    pulse.beat()
    channel.send(Ready(info=core.info))
    with contextlib.closing(core):
        try:
            serve(core, channel, pulse)
        except EngineDead as error:
            log.error("the engine ends: %s", error)
            return 1
    return 0


def _give_up(message: str, loading: CoreChannel | None) -> None:
    """End, if the loop does not notice by itself: it may wait for a device that waits for a process that is gone.

    While the model is loaded the server has to be told why, by `loading`.
    """
    time.sleep(GIVE_UP_S)
    log.error("the engine ends: %s", message)
    if loading is not None:
        with contextlib.suppress(OSError):
            loading.send(LoadFailed(message=message))
    os._exit(1)


def run(arguments: Sequence[str]) -> int:
    """The exit status of an engine process with these words on its command line: FD MEMORY CONFIG NAME."""
    fd, memory, config, name = arguments
    shown = name.replace("%", "%%")
    set_up_logging(
        logging.INFO, os.environ.get(VARIABLE, TEXT), f"%(levelname)s engine {shown}: %(message)s", engine=name
    )
    return main(int(fd), int(memory), decode_config(config))
