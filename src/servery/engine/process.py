"""The engine process: a core behind a socket. Started by `AsyncEngine` as `python -m servery.engine.process FD`."""

import logging
import signal
import socket
import sys

from servery.engine.channel import (
    Abort,
    Add,
    CoreChannel,
    LoadFailed,
    Outputs,
    Ready,
    Refused,
    Stop,
    ToCore,
    decode_config,
)
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import EngineError, InvalidRequest, LoadError, Overloaded
from servery.engine.loading_bar import LoadingBar

# Idle, the loop wakes this often to say that it is alive; under load every step says so.
HEARTBEAT_S = 0.25

log = logging.getLogger(__name__)


def serve(core: EngineCore, channel: CoreChannel) -> None:
    """Mailbox, step, outbox, until told to stop. Returns on `Stop`; raises `ConnectionError` when the server is gone."""
    while True:
        for message in channel.receive(0.0 if core.has_work else HEARTBEAT_S):
            if isinstance(message, Stop):
                return
            _take(core, channel, message)
        channel.send(Outputs(outputs=core.step() if core.has_work else [], stats=core.stats()))


def _take(core: EngineCore, channel: CoreChannel, message: ToCore) -> None:
    match message:
        case Add(request=request, seed=seed):
            try:
                core.add(request, seed)
            except EngineError as error:
                channel.send(_refusal(request.request_id, error))
        case Abort(request_id=request_id, index=index):
            core.abort(request_id, index)


def _refusal(request_id: str, error: EngineError) -> Refused:
    return Refused(
        request_id=request_id,
        kind=type(error).__name__,
        message=str(error),
        param=error.param if isinstance(error, InvalidRequest) else None,
        retry_after_s=error.retry_after_s if isinstance(error, Overloaded) else 0.0,
    )


def main(fd: int, config: EngineConfig) -> int:
    """Load, say so, serve; the exit status is 0 when told to stop, 1 when the model cannot be loaded."""
    # Ctrl-C, and the stop of a service manager, go to all processes at once; the server decides when the engine stops.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as sock:
        channel = CoreChannel(sock)
        try:
            return _load_and_serve(config, channel)
        except ConnectionError as error:  # at any moment, also while the model was being loaded
            log.warning("the server is gone (%s); the engine stops", error)
            return 0


def _load_and_serve(config: EngineConfig, channel: CoreChannel) -> int:
    try:
        with LoadingBar(f"loading {config.model.name}") as progress:
            core = EngineCore(config, progress=progress)
    except LoadError as error:
        channel.send(LoadFailed(message=str(error)))
        return 1
    except (RuntimeError, MemoryError) as error:  # what torch raises when the system gives no memory after all
        log.exception("loading %s failed", config.model)
        channel.send(LoadFailed(message=f"{config.model} could not be loaded: {error}"))
        return 1
    channel.send(Ready(info=core.info))
    serve(core, channel)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s engine: %(message)s")
    sys.exit(main(int(sys.argv[1]), decode_config(sys.argv[2])))
