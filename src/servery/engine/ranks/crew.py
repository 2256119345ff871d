"""The other processes as the first one sees them: started, told what to do, watched, ended."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from servery.engine.channel import encode_config
from servery.engine.config import EngineConfig
from servery.engine.errors import EngineDead, LoadError, NotEnoughMemory
from servery.engine.packed_arrays import PackedArrays
from servery.engine.parallel.part import Ranks
from servery.engine.ranks.messages import Begin, End, Failed, Line, Loaded, ToFollower

log = logging.getLogger(__name__)

FOLLOWER_MODULE = "servery.engine.ranks.follower"
MEETING_FILE = "meeting"
END_TIMEOUT_S = 5.0


class Crew:
    """All processes of a model but the first, which has this. `close` it in any case.

    Each has two ends of ours: a socket for what it is told, and a pipe of which it notices when we are gone.
    """

    def __init__(self, config: EngineConfig, ranks: Ranks, on_death: Callable[[str], None]) -> None:
        """Start them; `on_death` is told, on a thread of its own, of one that ends unasked. Raises `OSError`."""
        self._folder = tempfile.TemporaryDirectory(prefix="servery-")
        self._is_closing = False
        self._on_death = on_death
        self.death: str | None = None
        self._died = threading.Event()
        self._lines: list[Line] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        read_end, self._life = os.pipe()
        try:
            for rank in range(1, ranks.count):
                self._start(config, ranks.with_rank(rank), read_end)
        finally:
            os.close(read_end)

    @property
    def meeting(self) -> Path:
        """The file by which all processes find each other."""
        return Path(self._folder.name) / MEETING_FILE

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [process.pid for process in self._processes]

    def loaded(self) -> list[Loaded]:
        """Wait until every part is in memory; raises `LoadError` with what a process says that cannot load its own."""
        return [self._answer(rank, line) for rank, line in enumerate(self._lines, 1)]

    def begin(self, message: Begin) -> None:
        """Let all make their caches, and wait for steps; from now on they are watched."""
        for rank, process in enumerate(self._processes, 1):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True, name=f"rank-{rank}").start()
        self.announce(message)

    def announce(self, message: ToFollower, arrays: PackedArrays | None = None) -> None:
        """Tell all what to do next; raises `EngineDead` if one is gone."""
        self.check()
        try:
            for line in self._lines:
                line.send(message, arrays)
        except OSError as error:
            raise EngineDead(self.death or f"a process of the model is gone: {error}") from error

    def check(self, patience_s: float = 0.0) -> None:
        """Raise `EngineDead` if one has ended, or does so while we wait: the others notice a death before we know of it."""
        self._died.wait(patience_s)
        if self.death is not None:
            raise EngineDead(self.death)

    def close(self) -> None:
        """Let all end, make them if they do not. Safe to call twice."""
        if self._is_closing:
            return
        self._is_closing = True
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send(End())
        os.close(self._life)
        for process in self._processes:
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for line in self._lines:
            line.close()
        self._folder.cleanup()

    def _start(self, config: EngineConfig, ranks: Ranks, life: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            arguments = [str(theirs.fileno()), str(life), str(ranks.rank), str(self.meeting), encode_config(config)]
            process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", FOLLOWER_MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life),
            )
        self._lines.append(Line(ours))
        self._processes.append(process)

    def _answer(self, rank: int, line: Line) -> Loaded:
        try:
            answer = line.answer()
        except ConnectionError as error:
            status = self._processes[rank - 1].wait()
            raise LoadError(
                f"process {rank} of the model ended with status {status} while it loaded its part."
            ) from error
        if isinstance(answer, Failed):
            message = f"process {rank} of the model: {answer.message}"
            raise LoadError(message) if answer.needed_bytes is None else NotEnoughMemory(message, answer.needed_bytes)
        return answer

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        status = process.wait()
        if not self._is_closing:
            self.death = f"process {rank} of the model (pid {process.pid}) ended with status {status}."
            self._died.set()
            log.error("%s", self.death)
            self._on_death(self.death)
