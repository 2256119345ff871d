"""An engine process as its handle sees it: launched, spoken to, watched, ended. One life; the next is another object."""

import asyncio
import contextlib
import logging
import os
import socket
import sys

import msgspec

from servery.engine.channel import (
    Add,
    FrameReader,
    FromCore,
    LoadFailed,
    Loading,
    Ready,
    Stop,
    ToCore,
    encode_config,
    frame,
)
from servery.engine.config import EngineConfig
from servery.engine.core_errors import ended_while_loading, load_error
from servery.engine.doorbell import Doorbell
from servery.engine.pulse import Pulse, shared_memory
from servery.engine.request import BACKGROUND
from servery.engine.stats import EngineInfo
from servery.engine.vitals import read_vitals
from servery.engine.watchdog import LOOK_S, Watchdog

log = logging.getLogger(__name__)

ENGINE_MODULE = "servery.engine.entry"
STOP_TIMEOUT_S = 5.0
_READ_BYTES = 1 << 20


class CoreProcess:
    """A running engine process. Made by `launch`; `end` it in any case."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pulse: Pulse,
        bell: Doorbell,
    ) -> None:
        self.decoder = msgspec.msgpack.Decoder(FromCore)
        self.pulse = pulse
        self._bell = bell
        self.hang: str | None = None  # why it was killed, if it was for hanging
        self._process = process
        self._encoder = msgspec.msgpack.Encoder()
        self._frames = FrameReader()
        self._reader = reader
        self._writer = writer

    @classmethod
    async def launch(cls, config: EngineConfig, name: str) -> "CoreProcess":
        """Start a process that loads a model; `name` stands in what it logs. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, contextlib.ExitStack() as on_failure:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_BYTES)
            on_failure.callback(writer.close)
            memory = shared_memory()
            try:
                pulse = Pulse(memory)
                on_failure.callback(pulse.close)
                bell = Doorbell(memory)
                on_failure.callback(bell.close)
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    ENGINE_MODULE,
                    str(theirs.fileno()),
                    str(memory),
                    encode_config(config),
                    name,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory),
                )
            finally:
                os.close(memory)
            on_failure.pop_all()
        return cls(process, reader, writer, pulse, bell)

    @property
    def pid(self) -> int:
        """Its number on this machine."""
        return self._process.pid

    async def loaded(self, config: EngineConfig) -> tuple[EngineInfo, int]:
        """Wait for the model: what was resolved, and the memory in bytes that it takes once it needs all of it.

        Raises `LoadError` with the reason; the process has ended then.
        """
        planned: Loading | None = None
        while messages := await self.receive():
            for message in messages:
                match message:
                    case Loading():
                        planned = message
                    case Ready(info=info):
                        return info, 0 if planned is None else planned.needed_bytes
                    case LoadFailed():
                        await self.end()
                        raise load_error(message)
        raise ended_while_loading(await self.end(), planned, config)

    def send(self, message: ToCore) -> None:
        """Send one message; without effect once the process is gone."""
        if not self._writer.is_closing():
            self._writer.write(frame(self._encoder.encode(message)))
            if isinstance(message, Add) and message.request.priority < BACKGROUND:
                self._bell.ring()  # not before it is there to be found

    async def receive(self) -> list[FromCore]:
        """The next messages; an empty list when the process has closed its end, or sends what is no message."""
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
            except ConnectionError:
                return []
            if not data:
                return []
            if payloads := self._frames.feed(data):
                try:
                    return [self.decoder.decode(payload) for payload in payloads]
                except msgspec.DecodeError:  # as when another version was installed since the server started
                    log.exception("the engine process sent what cannot be read; it is taken for dead")
                    return []

    async def watch(self) -> None:
        """Look after it until it hangs; then kill it, so that `receive` ends. To be cancelled when it has ended."""
        watchdog, clock = Watchdog(), asyncio.get_running_loop().time
        while self.hang is None:
            self.hang = watchdog.look(clock(), self.pulse.last(), read_vitals(self.pid))
            if self.hang is None:
                await asyncio.sleep(LOOK_S)
        self.kill()

    def kill(self) -> None:
        """End it at once; it may have ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> int:
        """Ask it to stop, make it if it does not; returns its exit status, negative for the signal that ended it.

        Safe to call twice.
        """
        self.send(Stop())
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self.kill()
        status = await self._process.wait()
        self._writer.close()
        self.pulse.close()
        self._bell.close()
        return status
