"""The other processes as the first one sees them: started, told what to do, watched, ended."""

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from servery.engine.config import EngineConfig
from servery.engine.errors import EngineDead, LoadError, NotEnoughMemory
from servery.engine.packed_arrays import PackedArrays
from servery.engine.parallel.part import Ranks
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.messages import Begin, End, Failed, Line, Loaded, ToFollower
from servery.engine.ranks.reception import Reception
from servery.engine.ranks.starting import start_follower, told_end

log = logging.getLogger(__name__)

MEETING_FILE = "meeting"
END_TIMEOUT_S = 5.0
# A machine that is lost, or a process there, is told of on a connection of its own, a moment later.
LOSS_PATIENCE_S = 3.0


class Crew:
    """All processes of a model but the first, which has this. `close` it in any case.

    Each of this machine has two ends of ours: a socket for what it is told, and a pipe of which it notices when we are
    gone. Those of other machines have a connection; their machines have one more, and look after them.
    """

    def __init__(self, config: EngineConfig, ranks: Ranks, on_death: Callable[[str], None]) -> None:
        """Start those of this machine; `on_death` is told, on a thread of its own, of one that ends after `begin`, unasked.

        Before that `gather` and `loaded` tell. Raises `OSError`; `LoadError` where others cannot come.
        """
        self._is_begun = self._is_closing = False
        self._on_death = on_death
        self.death: str | None = None
        self._died = threading.Event()
        self._lines: list[Line] = []
        self._ranks = ranks
        self._processes: list[subprocess.Popen[bytes]] = []
        self._reception = Reception(config, ranks, self._die) if ranks.nodes > 1 else None
        self._folder = tempfile.TemporaryDirectory(prefix="servery-")
        read_end, self._life = os.pipe()
        try:
            for rank in range(1, ranks.per_node):
                self._start(config, rank, read_end)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(read_end)

    @property
    def place(self) -> MeetingPlace:
        """Where all processes find each other, as the first one knows it."""
        if self._reception is not None:
            return self._reception.own_place
        return MeetingPlace(file=str(Path(self._folder.name) / MEETING_FILE))

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes on this machine."""
        return [process.pid for process in self._processes]

    def gather(self, wait: Callable[[], None]) -> None:
        """Wait for other machines, if there are to be any; see `Reception.gather`."""
        if self._reception is not None:
            self._lines += self._reception.gather(wait).lines

    def loaded(self) -> list[Loaded]:
        """Wait until every part is in memory; raises `LoadError` with what a process says that cannot load its own."""
        return [self._answer(rank, line) for rank, line in enumerate(self._lines, 1)]

    def begin(self, message: Begin) -> None:
        """Let all make their caches, and wait for steps; from now on they are watched. Raises `EngineDead` if one is gone."""
        self._is_begun = True
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
            self.check(LOSS_PATIENCE_S)
            raise EngineDead(f"a process of the model is gone: {error}") from error

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
        if self._reception is not None:
            self._reception.close()
        for line in self._lines:
            line.close()
        self._folder.cleanup()

    def _start(self, config: EngineConfig, rank: int, life: int) -> None:
        place = structs.replace(self.place, listener=None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = start_follower(theirs.fileno(), life, rank, place, config)
        self._lines.append(Line(ours))
        self._processes.append(process)

    def _answer(self, rank: int, line: Line) -> Loaded:
        try:
            answer = line.answer()
        except ConnectionError as error:
            raise LoadError(f"{self._end_of(rank)} It was loading its part.") from error
        if isinstance(answer, Failed):
            message = f"process {rank} of the model: {answer.message}"
            raise LoadError(message) if answer.needed_bytes is None else NotEnoughMemory(message, answer.needed_bytes)
        return answer

    def _end_of(self, rank: int) -> str:
        """What became of a process that answers no more."""
        if rank < self._ranks.per_node:
            process = self._processes[rank - 1]
            return told_end(rank, process.pid, process.wait())
        self._died.wait(LOSS_PATIENCE_S)
        return self.death or f"process {rank} of the model, on node {rank // self._ranks.per_node}, is gone."

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        self._die(told_end(rank, process.pid, process.wait()))

    def _die(self, why: str) -> None:
        """The model can compute no more."""
        if not self._is_closing and self.death is None:
            self.death = why
            self._died.set()
            log.error("%s", why)
            if self._is_begun:  # not on this thread, which `close` waits for
                threading.Thread(target=self._on_death, args=(why,), daemon=True, name="death").start()
